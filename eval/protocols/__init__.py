"""Protocols, one for each kind of benchmark: retrieval, multiple choice, classification, boxes, grounding."""
