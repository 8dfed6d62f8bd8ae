"""Generated docs, and the measured figures they are made from."""
