"""The commands, one file each, the parsers and the error lines."""
