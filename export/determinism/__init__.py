"""Whether a subject is a function of its inputs: no dice, no memory."""
