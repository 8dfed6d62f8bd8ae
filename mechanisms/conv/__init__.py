"""Convolutions whose kernels are separable, dynamic, local or recursive."""
