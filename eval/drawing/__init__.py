"""Images for people: arrays in, figures and web pages out. Nothing here knows a model.

Drawn by matplotlib without a display. Colours are told apart by colour-blind readers too, and never carry a meaning
alone: a mark, a line style or a word says the same.
"""
