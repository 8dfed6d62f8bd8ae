"""Reference vectors of the family ``rep``: file → entry and constructor arguments."""

from tests.mechanisms.row import Row

ROWS: dict[str, Row] = {
    "repvgg": Row("repvgg", {"channels": 16}, build="RepVGGBlock"),
    "repvgg_expand": Row("repvgg", {"channels": 16, "out_channels": 24}, build="RepVGGBlock"),
    "repvgg_grouped": Row("repvgg", {"channels": 16, "groups": 4}, build="RepVGGBlock"),
}
