"""Reference vectors of the family ``attention``: file → entry and constructor arguments."""

from tests.mechanisms.row import Row

ROWS: dict[str, Row] = {
    "se": Row("se", {"channels": 32, "reduction": 4}),
}
