"""FSDP2: which modules are sharded, and the strategy that does it."""
