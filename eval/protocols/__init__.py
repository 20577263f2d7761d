"""How one kind of benchmark is measured: retrieval, multiple choice, classification, boxes, grounding."""
