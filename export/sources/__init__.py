"""Where a subject comes from: the catalogue, the user's own code, or an ONNX file."""
