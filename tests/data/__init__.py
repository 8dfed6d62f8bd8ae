"""What tests read: files that are too large to be written down in a test."""
