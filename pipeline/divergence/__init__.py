"""Where two runs diverge: which two, the first node that differs, and the smallest subgraph that shows it."""
