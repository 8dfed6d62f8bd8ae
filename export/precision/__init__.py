"""Rewrite a graph to a coarser element type."""
