"""Content of the dashboards: images and numbers of a model in training on samples that stay the same."""
