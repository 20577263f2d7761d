"""The life of a run: its folder, its lock, its record, and what may change when it goes on (``configs/README.md``)."""
