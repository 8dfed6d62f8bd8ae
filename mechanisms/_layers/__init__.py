"""Building blocks that several mechanisms share: one idea a file."""
