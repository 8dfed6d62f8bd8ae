"""From a module to an ONNX model whose contract is asserted, and the one place where ONNX files are read."""
