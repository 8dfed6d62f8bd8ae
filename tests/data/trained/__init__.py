"""Small networks with trained weights, and the pictures that they were trained, calibrated and judged on."""
