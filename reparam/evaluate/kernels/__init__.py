"""The operators of ONNX in NumPy, a file a kind."""
