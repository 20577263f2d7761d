"""The contrastive engine: tiles, pairs, process group, checks. The losses of papers are one folder above."""
