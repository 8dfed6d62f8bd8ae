"""What compilers for chips that are not there share: their evidence, and the process that each build runs in."""
