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
    "ufo": Row("ufo", {"channels": 32, "heads": 4, "d_k": 8, "d_v": 8}),
    "criss_cross": Row("criss_cross", {"channels": 32}),
    "axial_attention": Row("axial_attention", {"channels": 32, "heads": 4}),
    "axial_attention_sequential": Row("axial_attention", {"channels": 16, "heads": 2, "sequential": True}),
    "axial_image_transformer": Row("axial_image_transformer", {"channels": 16, "depth": 1, "heads": 2, "size": (5, 7)}),
    "axial_image_transformer_irreversible": Row(
        "axial_image_transformer", {"channels": 16, "depth": 1, "heads": 2, "size": None, "reversible": False}
    ),
    "mobilevit_attention": Row(
        "mobilevit_attention",
        {"channels": 8, "dim": 12, "depth": 3, "heads": 8, "d_head": 64, "hidden": 1024, "plain": True},
    ),
    "mobilevit_transformer": Row(
        "mobilevit_attention",
        {"channels": 16, "depth": 2, "heads": 2, "d_head": 8, "hidden": 32},
        build="_layers.patch_transformer:Transformer",
    ),
    "eca": Row("eca", {"channels": 32, "kernel_size": 3}),
    "external": Row("external", {"channels": 32, "memory": 8}),
    "self_attention": Row("self_attention", {"channels": 32, "heads": 4, "d_k": 8, "d_v": 12}),
    "self_attention_masked": Row("self_attention", {"channels": 32, "heads": 4}),
    "triplet": Row("triplet"),
    "triplet_no_spatial": Row("triplet", {"spatial": False}),
    "acmix": Row("acmix", {"channels": 16, "heads": 4}),
    "outlook": Row("outlook", {"channels": 32}),
    "outlook_heads": Row("outlook", {"channels": 16, "heads": 2, "value_bias": True}),
    "volo_outlook_attention": Row("outlook", {"channels": 16, "heads": 2, "stride": 2}),
    "simplified_self_attention": Row("simplified_self_attention", {"channels": 32, "heads": 4}),
    "sk": Row(
        "sk",
        {
            "channels": 16,
            "kernels": (1, 3, 5),
            "reduction": 2,
            "least": 8,
            "groups": 4,
            "dilated": False,
            "norm": False,
        },
    ),
    "cbam": Row("cbam", {"channels": 32, "reduction": 4, "bias": True, "residual": True}),
    "cbam_channel_gate": Row("cbam", {"channels": 32, "reduction": 4}, build="ChannelGate"),
    "cbam_spatial_gate": Row("cbam", {"kernel_size": 7, "bias": True}, build="SpatialGate"),
    "bam": Row(
        "bam",
        {
            "channels": 32,
            "reduction": 4,
            "dilation": 1,
            "channel_layers": 3,
            "spatial_layers": 3,
            "hidden_norms": True,
        },
    ),
    "dat": Row("dat"),
    "dat_deformable": Row(
        "dat", {"channels": 32, "heads": 4, "groups": 2, "size": (7, 9)}, build="_layers.deformable:DeformableAttention"
    ),
    "dat_deformable_dwc": Row(
        "dat",
        {
            "channels": 16,
            "heads": 2,
            "groups": 1,
            "size": (6, 8),
            "kernel": 3,
            "offset_range": -1.0,
            "position": "conv",
        },
        build="_layers.deformable:DeformableAttention",
    ),
    "dat_window": Row(
        "dat", {"channels": 16, "heads": 2, "window": 4, "channels_first": True}, build="_layers.windows:WindowAttention"
    ),
    "dat_shifted_window": Row(
        "dat",
        {"channels": 16, "heads": 2, "window": 4, "shift": 2, "size": (8, 12), "channels_first": True},
        build="_layers.windows:WindowAttention",
    ),
    "crossformer": Row("crossformer", {"mlp_ratio": 1.0}),
    "crossformer_block_sda": Row(
        "crossformer",
        {"channels": 48, "size": (6, 9), "heads": 3, "group": 3, "far": False, "mlp_ratio": 1.0},
        build="block",
    ),
    "crossformer_block_lda": Row(
        "crossformer",
        {"channels": 48, "size": (6, 9), "heads": 3, "group": 3, "far": True, "mlp_ratio": 1.0},
        build="block",
    ),
    "psa": Row(
        "psa",
        {"channels": 32, "groups": (1, 1, 1, 1), "reduction": 2, "split": True, "bias": True},
    ),
    "emsa": Row("emsa", {"channels": 32, "heads": 4, "height": 8, "width": 6}, inputs=(0,)),
    "emsa_ratio1": Row("emsa", {"channels": 32, "heads": 4, "height": 4, "width": 4, "ratio": 1}),
    "shuffle": Row("shuffle_attention", {"channels": 32, "groups": 4}),
    "muse": Row("muse", {"channels": 32, "heads": 4, "hidden": 0}),
    "sge": Row("sge", {"channels": 32, "groups": 4}),
    "aft_full": Row("aft_full", {"channels": 32, "tokens": 20}),
    "aft_simple": Row("aft_simple", {"channels": 32}),
    "vip": Row("vip", {"channels": 32, "segments": 8}),
    "halo_rel_pos": Row("halo", {"block": 4, "window": 8, "channels": 8}, build="RelativeLogits"),
    "swin_window_attention": Row("window", {"channels": 16, "heads": 2, "window": 3}, build="WindowTokens"),
    "swin_block_shifted": Row(
        "window",
        {"channels": 16, "size": (6, 9), "heads": 2, "window": 3, "shift": 1, "mlp_ratio": 2.0},
        build="SwinBlock",
    ),
}
