"""Reference vectors of the family ``mlp``: file → entry and constructor arguments."""

from tests.mechanisms.row import Row

ROWS: dict[str, Row] = {
    "mlp_mixer": Row("mlp_mixer"),
}
