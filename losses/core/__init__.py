"""The contrastive engine: tiles, pairs, process group, ragged sets. No loss of a paper stands here."""
