"""The user's own inputs: arrays and images, read and prepared by NumPy alone."""
