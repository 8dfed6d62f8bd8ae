"""The opset that is asked for where nobody says another."""

OPSET = 18
