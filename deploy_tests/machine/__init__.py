"""What a figure was measured on, and what there would spoil it."""
