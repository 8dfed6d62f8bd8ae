"""Reference vectors of the family ``rep``: file → entry and constructor arguments."""

from tests.mechanisms.row import Row

ROWS: dict[str, Row] = {
    "repvgg": Row("repvgg", {"channels": 16}, build="RepVGGBlock"),
    "repvgg_expand": Row("repvgg", {"channels": 16, "out_channels": 24}, build="RepVGGBlock"),
    "repvgg_grouped": Row("repvgg", {"channels": 16, "groups": 4}, build="RepVGGBlock"),
    "acnet": Row("acnet", {"channels": 16}),
    "acnet_expand": Row("acnet", {"channels": 16, "out_channels": 24}),
    "acnet_grouped": Row("acnet", {"channels": 16, "groups": 4}),
    "dbb_transform_1": Row("dbb_transform_1"),
    "dbb_transform_2": Row("dbb_transform_2"),
    "dbb_transform_3": Row("dbb_transform_3", {"bias": False}),
    "dbb_transform_4": Row("dbb_transform_4"),
    "dbb_transform_5": Row("dbb_transform_5"),
    "dbb_transform_6": Row("dbb_transform_6"),
}
