"""Reports: what they say, and the formats they say it in."""
