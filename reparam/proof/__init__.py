"""What proves a collapse: dyadic weights, float64 runs of sites and of whole graphs, errors in low precision."""
