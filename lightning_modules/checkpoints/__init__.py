"""Everything that touches a checkpoint file: atomic and sharded saving, metadata, averages of weights, model cards."""
