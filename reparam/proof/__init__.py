"""What proves a collapse: dyadic twins, float64 runs of sites and of whole graphs, and the errors in low precision."""
