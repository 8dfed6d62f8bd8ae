"""Reference vectors of the family ``mlp``: file → entry and constructor arguments."""

from tests.mechanisms.row import Row

ROWS: dict[str, Row] = {
    "mlp_mixer": Row("mlp_mixer"),
    "repmlp": Row("repmlp"),
    "repmlp_no_global": Row("repmlp", {"size": (5, 4), "part": (5, 4), "kernels": (1, 3)}),
    "resmlp_block": Row("resmlp", {"patches": 12, "channels": 16}, build="ResMLPBlock"),
    "gmlp": Row("gmlp", {"softmax": True}, beside={"vocabulary": 20}),
    "gmlp_sgu": Row("gmlp", {"features": 12, "tokens": 14}, build="SpatialGatingUnit"),
    "smlp": Row("smlp"),
    "vip_mlp": Row("vip_mlp"),
    "vip_mlp_block": Row("vip_mlp", {"channels": 32, "segments": 8}, build="PermutatorBlock"),
}
