"""A cluster on this machine: what becomes of a sweep when its parts are killed, what it costs, how far it goes."""
