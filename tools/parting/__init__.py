"""Where two runs part: which two, the first node that differs, and the smallest part that shows it."""
