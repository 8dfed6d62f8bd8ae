"""Reference vectors of the family ``attention``: file → entry and constructor arguments."""

from tests.mechanisms.row import Row

ROWS: dict[str, Row] = {
    "se": Row("se", {"channels": 32, "reduction": 4}),
    "polarized_sequential": Row("polarized_sequential", {"channels": 32}),
    "polarized_parallel": Row("polarized_parallel", {"channels": 32}),
    "residual_attention": Row("residual_attention", {"channels": 32, "classes": 20}),
    "s2": Row("s2", {"channels": 32}),
    "s2_split": Row("s2", {"channels": 16, "axis": -1}, build="SplitAttention"),
    "gfnet_filter": Row("gfnet_filter", {"channels": 16, "height": 8, "width": 8}),
    "gfnet_block": Row("gfnet", {"channels": 16, "height": 6, "width": 6, "mlp_ratio": 2.0}, build="GlobalFilterBlock"),
    "coordatt": Row("coordatt", {"channels": 32, "reduction": 4}),
    "simam": Row("simam"),
    "mobilevitv2": Row("mobilevitv2", {"channels": 32}),
    "parnet": Row("parnet", {"channels": 16, "skip_norm": False}),
}
