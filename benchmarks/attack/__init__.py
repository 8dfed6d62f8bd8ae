"""Attack the product with hostile files, command lines, kills and narrow straits; what ends well is counted too."""
