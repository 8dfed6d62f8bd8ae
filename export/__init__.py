"""WRITE: module to ONNX, simplified, with its contract asserted, its float64 truth beside it, into a bundle."""
