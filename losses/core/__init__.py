"""The contrastive engine: tiles, pairs, process group, ragged sets. The losses of papers are one folder above."""
