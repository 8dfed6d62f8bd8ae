"""Structural re-parameterisation: several branches to train, one convolution to deploy."""
