"""Whole classifiers, made of the catalogue's parts: what people deploy."""
