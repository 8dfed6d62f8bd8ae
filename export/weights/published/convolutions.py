"""Convolutions and the blocks around them, as timm and the authors name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attn_export.export.weights.published.convert import State, numbered, scale_norm, zeros
from attn_export.mechanisms.spec import Source

_MBCONV = {
    r"^conv_pw\.": "expand.",
    r"^bn1\.": "expand_norm.",
    r"^conv_dw\.": "depthwise.",
    r"^bn2\.": "depthwise_norm.",
    r"^se\.conv_reduce\.": "squeeze.",
    r"^se\.conv_expand\.": "excite.",
    r"^conv_pwl\.": "project.",
    r"^bn3\.": "project_norm.",
}
_MBCONV_SHOWN = (r"^conv_pw\.weight$", r"^conv_dw\.weight$", r"^se\.conv_reduce\.", r"^conv_pwl\.weight$")


def _mbconv(state: State) -> Mapping[str, Any]:
    wide, channels = state["conv_pw.weight"].shape[:2]
    return {
        "channels": channels,
        "out_channels": state["conv_pwl.weight"].shape[0],
        "expand": wide // channels,
        "kernel": state["conv_dw.weight"].shape[2],
        "squeeze": (state["se.conv_reduce.weight"].shape[0] + 0.5) / channels,
    }


def _uib(state: State) -> Mapping[str, Any]:
    wide, channels = state["pw_exp.conv.weight"].shape[:2]
    sides = {
        ours: state[f"{theirs}.conv.weight"].shape[2] if f"{theirs}.conv.weight" in state else 0
        for ours, theirs in (("start", "dw_start"), ("middle", "dw_mid"))
    }
    return {
        "channels": channels,
        "out_channels": state["pw_proj.conv.weight"].shape[0],
        "expand": wide // channels,
        **sides,
    }


def _fasternet(state: State) -> Mapping[str, Any]:
    part = state[next(name for name in state if name.endswith("partial_conv3.weight"))].shape[0]
    if "mlp.0.weight" not in state:
        return {}
    wide, channels = state["mlp.0.weight"].shape[:2]
    return {"channels": channels, "divisor": channels // part, "expand": wide // channels}


_ODCONV = ("channel_fc", "filter_fc", "spatial_fc", "kernel_fc")

MAPS: Mapping[str, Mapping[str, Source]] = {
    "mbconv": {
        "timm": Source(
            "EfficientNet in timm, whose batch norms have ε = 1e-5",
            shown_by=_MBCONV_SHOWN,
            arguments={"epsilon": 1e-5},
            reads=_mbconv,
            checkpoint=_MBCONV,
        ),
        "timm-tf": Source(
            "EfficientNet of TensorFlow in timm (tf_efficientnet_…), whose batch norms have ε = 1e-3",
            shown_by=_MBCONV_SHOWN,
            arguments={"epsilon": 1e-3},
            reads=_mbconv,
            checkpoint=_MBCONV,
            refused_under={"strided": "it pads below and to the right of even maps; ask for tensorflow_size"},
        ),
        "timm-mobilenetv3": Source(
            "MobileNetV3 in timm, which has the same names",
            shown_by=_MBCONV_SHOWN,
            refused="its activations and its gate are others; the entry mobilenetv3 has them",
        ),
    },
    "involution": {
        "authors": Source(
            "d-li14/involution, whose first convolution has no bias",
            shown_by=(r"^conv1\.conv\.", r"^conv1\.bn\.", r"^conv2\.conv\."),
            reads=lambda state: {
                "channels": state["conv1.conv.weight"].shape[1],
                "reduction": state["conv1.conv.weight"].shape[1] // state["conv1.conv.weight"].shape[0],
            },
            checkpoint={r"^conv1\.conv\.": "reduce.", r"^conv1\.bn\.": "norm.", r"^conv2\.conv\.": "span."},
            convert=zeros("conv1.conv.bias", "conv1.conv.weight"),
        ),
    },
    "ghost": {
        "authors": Source(
            "huawei-noah/Efficient-AI-Backbones and timm's GhostModule",
            shown_by=(r"^primary_conv\.0\.", r"^cheap_operation\.0\."),
            reads=lambda state: {
                "channels": state["primary_conv.0.weight"].shape[1],
                "kernel": state["primary_conv.0.weight"].shape[2],
            },
            checkpoint={
                r"^primary_conv\.0\.": "primary.conv.",
                r"^primary_conv\.1\.": "primary.bn.",
                r"^cheap_operation\.0\.": "cheap.conv.",
                r"^cheap_operation\.1\.": "cheap.bn.",
            },
        ),
    },
    "pconv": {
        "authors": Source(
            "JierunChen/FasterNet and timm: the convolution, or the block around it",
            shown_by=(r"(^|^spatial_mixing\.)partial_conv3\.weight$",),
            reads=_fasternet,
            checkpoint={
                r"^spatial_mixing\.partial_conv3\.": "mix.conv.",
                r"^partial_conv3\.": "conv.",
                r"^mlp\.0\.": "widen.conv.",
                r"^mlp\.1\.": "widen.bn.",
                r"^mlp\.3\.": "narrow.",
            },
        ),
    },
    "odconv": {
        "authors": Source(
            "OSVAI/ODConv, at the temperature 1 that its training ends with",
            shown_by=(r"^attention\.fc\.", r"^attention\.channel_fc\.", r"^weight$"),
            arguments={"temperature": 1.0},
            reads=lambda state: {
                "experts": state["weight"].shape[0],
                "out_channels": state["weight"].shape[1],
                "kernel": state["weight"].shape[3],
                "channels": state["attention.fc.weight"].shape[1],
                "groups": state["attention.fc.weight"].shape[1] // state["weight"].shape[2],
                "least": state["attention.fc.weight"].shape[0],
                "reduction": state["attention.fc.weight"].shape[1],
            },
            checkpoint={
                r"^attention\.fc\.": "squeeze.",
                r"^attention\.bn\.": "norm.",
                **{
                    rf"^attention\.{theirs}\.": f"{ours}."
                    for theirs, ours in zip(_ODCONV, ("inputs", "outputs", "taps", "choose"), strict=True)
                },
            },
        ),
    },
    "mixconv": {
        "timm": Source(
            "timm's MixedConv2d, depth-wise",
            shown_by=(r"^0\.weight$", r"^1\.weight$"),
            arguments={"split": "equal"},
            reads=lambda state: {
                "channels": sum(state[f"{i}.weight"].shape[0] for (i,) in numbered(state, r"^(\d+)\.weight$")),
                "kernels": tuple(state[f"{i}.weight"].shape[2] for (i,) in numbered(state, r"^(\d+)\.weight$")),
            },
            checkpoint={r"^(\d+)\.": r"convs.\1."},
        ),
    },
    "inception_dw": {
        "authors": Source(
            "sail-sg/inceptionnext and timm's InceptionDWConv2d",
            shown_by=(r"^dwconv_hw\.", r"^dwconv_w\.", r"^dwconv_h\."),
            sized={"square": (r"^dwconv_hw\.weight$", 2), "band": (r"^dwconv_w\.weight$", 3)},
            checkpoint={r"^dwconv_hw\.": "square.", r"^dwconv_w\.": "row.", r"^dwconv_h\.": "column."},
        ),
    },
    "uib": {
        "timm": Source(
            "timm's UniversalInvertedResidual; its layer scale goes into the last norm",
            shown_by=(r"^pw_exp\.conv\.", r"^pw_proj\.conv\."),
            reads=_uib,
            checkpoint={
                rf"^{theirs}\.": f"{ours}."
                for theirs, ours in (
                    ("dw_start", "start"),
                    ("pw_exp", "widen"),
                    ("dw_mid", "middle"),
                    ("pw_proj", "narrow"),
                )
            },
            convert=scale_norm("layer_scale.gamma", "pw_proj.bn"),
        ),
    },
}
