"""USE: the command line, reports and benchmarks; the only folder that prints and writes."""
