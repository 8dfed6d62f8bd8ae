"""MLPs that mix tokens or channels without attention."""
