"""The conformance kit: raw measurements of one machine that anyone can recompute."""
