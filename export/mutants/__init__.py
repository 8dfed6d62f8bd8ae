"""Copies of a model with one fault each, to show that a check can fail."""
