"""Figures and web pages, drawn from arrays; no code here depends on a model.

Matplotlib draws them without a display. Colour-blind readers can distinguish the colours, and colour never carries a
meaning alone: a mark, a line style or a word says the same.
"""
