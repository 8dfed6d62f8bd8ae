"""Reference vectors of the family ``conv``: file → entry and constructor arguments."""

from tests.mechanisms.row import Row

_PLAIN = {"channels": 16, "out_channels": 24, "norm": False}
_MIXED = {"channels": 16, "out_channels": 16, "experts": 3, "padding": 2, "dilation": 2, "groups": 4, "bias": False}

ROWS: dict[str, Row] = {
    "depthwise_separable": Row("depthwise_separable", _PLAIN),
    "depthwise_separable_stride2": Row("depthwise_separable", {**_PLAIN, "stride": 2}),
    "mbconv": Row("mbconv", {"channels": 16, "out_channels": 16, "expand": 4, "epsilon": 0.01}),
    "mbconv_stride2": Row(
        "mbconv",
        {
            "channels": 16,
            "out_channels": 24,
            "expand": 2,
            "kernel": 5,
            "stride": 2,
            "epsilon": 0.01,
            "tensorflow_size": (12, 9),
        },
    ),
    "involution": Row("involution", {"channels": 16, "kernel": 3, "groups": 4}),
    "involution_stride2": Row("involution", {"channels": 16, "kernel": 5, "stride": 2, "groups": 2}),
    "dynamic_conv": Row("dynamic_conv", {"channels": 16, "out_channels": 24}),
    "dynamic_conv_grouped": Row("dynamic_conv", {**_MIXED, "temperature": 30.0}),
    "cond_conv": Row("cond_conv", {"channels": 16, "out_channels": 24}),
    "cond_conv_grouped": Row("cond_conv", _MIXED),
    "gnconv": Row("gnconv", {"channels": 16, "order": 3}),
    "gnconv_order5": Row("gnconv", {"channels": 32, "order": 5}),
    "hornet": Row("hornet", {"width": 8, "depths": (1, 1, 1, 1), "classes": 10}),
    "hornet_block": Row("hornet", {"channels": 16, "order": 3}, build="HorNetBlock"),
    "hornet_global_local_filter": Row("hornet", {"channels": 16, "size": 8}, build="GlobalLocalFilter"),
}
