"""From a model of some kind to the small graph, and back."""
