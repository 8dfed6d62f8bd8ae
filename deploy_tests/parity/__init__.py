"""Whether what a runtime computes is the float64 reference."""
