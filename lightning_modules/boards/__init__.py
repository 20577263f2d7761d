"""What the dashboards show of a model in training: pictures and numbers on samples that stay the same."""
