"""Tars on disk: discovery, index, writer, download, viewer."""
