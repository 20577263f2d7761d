"""Captions into sentences and phrases."""
