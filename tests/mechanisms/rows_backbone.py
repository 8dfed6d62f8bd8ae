"""Reference vectors of the family ``backbone``: file → entry and constructor arguments."""

from torch import nn

from attn_export.mechanisms import MECHANISMS
from tests.mechanisms.row import Row


def _as_named(entry: str, preset: str = "test", **more: object) -> Row:
    """Take the arguments of a preset or variant, with others."""
    return Row(entry, {**MECHANISMS[entry].configurations[preset].arguments, **more})


_MV2: dict[str, object] = {"wide": 8, "gate": False, "activation": nn.SiLU}

ROWS: dict[str, Row] = {
    "resnet_bottleneck": Row("resnet", build="ResidualBlock"),
    "resnet_bottleneck_down": Row(
        "resnet", {"inputs": 16, "stride": 2, "stride_first": True, "shortcut_norm": False}, build="ResidualBlock"
    ),
    "resnext_bottleneck": Row("resnet", {"width": 16, "groups": 4}, build="ResidualBlock"),
    "convmixer": _as_named("convmixer"),
    "convnextv2": _as_named("convnextv2"),
    "convnextv2_block": Row("convnextv2", {"channels": 16}, build="ConvNeXtV2Block"),
    "mobilenetv3": _as_named("mobilenetv3"),
    "mobilenetv3_block": Row("mobilenetv3", build="InvertedResidual"),
    "mv2_block": Row("mobilevit", _MV2, build="InvertedResidual"),
    "mv2_block_stride2": Row("mobilevit", {**_MV2, "outputs": 12, "stride": 2}, build="InvertedResidual"),
    "deit_distilled": _as_named("deit"),
    "deepvit": _as_named("deepvit"),
    "deepvit_reattention": Row("deepvit", {"channels": 24, "heads": 4}, build="ReAttention"),
    "cait": _as_named("cait"),
    "convit": _as_named("convit"),
    "patchconvnet": _as_named("patchconvnet"),
    "cmt": _as_named("cmt"),
    "ceit": _as_named("ceit"),
    "container": _as_named("container"),
    "swin_v2": _as_named("swin_v2"),
    "swin_v2_window_attention": Row("swin_v2", {"channels": 16, "heads": 2, "window": 3}, build="CosineTokens"),
    "swin_v2_cr": _as_named("swin_v2", "cr", size=96, norm_stages=False),
    "volo": _as_named("volo"),
    "volo_outlooker": Row("volo", {"channels": 16, "heads": 2, "mlp_ratio": 2.0, "bias": True}, build="Outlooker"),
    "coat": _as_named("coat", "parallel"),
    "coat_lite": _as_named("coat"),
    "crossvit": _as_named("crossvit", rounds=2),
    "tnt": _as_named("tnt"),
    "hatnet": _as_named("hatnet"),
    "contnet": _as_named("contnet", size=224, patches=(7, 14)),
    "shuffle_transformer_block": Row("shuffle_transformer", build="ShuffleBlock"),
    "swin": _as_named("swin"),
    "pit": _as_named("pit"),
    "pvt": _as_named("pvt"),
    "cpvt": _as_named("pvt", "conditional"),
    "levit": _as_named("levit", size=64),
    "levit_attention": Row("levit", build="LeViTAttention"),
    "levit_attention_subsample": Row(
        "levit", {"outputs": 24, "ratio": 4, "side": 5, "stride": 2}, build="LeViTAttention"
    ),
    "efficientformer": _as_named("efficientformer", size=224),
    "efficientformer_meta4d": Row("efficientformer", {"channels": 12, "mlp_ratio": 2.0}, build="PoolingBlock"),
    "efficientformer_meta3d": Row("efficientformer", {"channels": 12, "mlp_ratio": 2.0}, build="AttentionBlock"),
}
