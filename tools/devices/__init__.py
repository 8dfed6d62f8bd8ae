"""A machine of the user's, over his own OpenSSH client: what it is, what it is brought, and a run that needs no line.

Every call is one ``ssh`` of a short script, framed so that what the line says is told from what the device says. Only
the start of a run changes anything that a second call would change again, and it is told apart by the run's name: so
each call can be repeated when the line breaks.
"""
