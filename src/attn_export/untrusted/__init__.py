"""Whatever comes from outside is checked here before it is believed: files, JSON, arrays, text."""
