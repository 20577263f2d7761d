"""Weights in and out: whose layout has which of our parameters under which name."""
