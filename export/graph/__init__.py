"""Questions about an ONNX graph: who makes a tensor, what a node costs, where it came from; and how to cut it open."""
