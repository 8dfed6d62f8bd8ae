"""What a graph means in float64, computed by ourselves."""
