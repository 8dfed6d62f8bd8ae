"""PyTorch modules to and from the IR."""
