"""What is tried, a library a file."""
