"""Compare a graph with what it was made of, constant by constant, attribute by attribute, layer by layer."""
