"""Print the figures that the documentation and the closing notes name: one question a file."""
