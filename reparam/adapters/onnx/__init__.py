"""ONNX graphs to and from the IR."""
