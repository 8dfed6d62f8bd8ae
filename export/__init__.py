"""WRITE: module to ONNX, simplified, with its contract asserted, its float64 reference beside it, into a bundle."""
