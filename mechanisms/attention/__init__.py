"""Attention: the output at a place is a weighted view of other places or channels."""
