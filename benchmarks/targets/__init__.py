"""The catalogue on every target: rows in ``docs/targets.d``, and the page that they render to."""
