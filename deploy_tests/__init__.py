"""PROVE: what a bundle must pass where it is deployed: parity and latency, per backend, without torch or onnx."""
