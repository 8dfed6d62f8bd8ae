"""Runtimes that `.ci/run` installs in an environment of their own: what each writes, runs, and must not let pass."""
