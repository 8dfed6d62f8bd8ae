"""How long a run takes, what a model costs, and which of two is faster."""
