"""Gates of channels and pixels, as timm, torchvision and the authors name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attn_export.export.weights.published.convert import State, numbered, scaled, zeros
from attn_export.mechanisms.spec import Source

_SE = (r"^(fc1|conv_reduce)\.weight$", r"^(fc2|conv_expand)\.weight$", r"^(fc1|conv_reduce)\.bias$")
_SE_NAMES = {r"^(fc1|conv_reduce)\.": "squeeze.", r"^(fc2|conv_expand)\.": "excite."}
_SE_SIZES = {"channels": (_SE[0], 1), "hidden": (_SE[0], 0)}


def _se(of: str, **arguments: Any) -> Source:
    return Source(of, _SE, arguments={"bias": True, **arguments}, sized=_SE_SIZES, checkpoint=_SE_NAMES)


def _swapped(state: State) -> State:
    """Put the maximum before the mean."""
    name = "spatial.conv.conv.weight"
    return {**state, name: state[name].flip(1)} if name in state else state


def _scales(state: State) -> Mapping[str, Any]:
    """Read EPSANet's pyramid in the order of its outputs, which is backwards."""
    convs = [state[f"conv_{i}.weight"] for i in (4, 3, 2, 1)]
    part, channels = convs[0].shape[0], 4 * convs[0].shape[0]
    return {
        "channels": channels,
        "kernels": tuple(conv.shape[2] for conv in convs),
        "groups": tuple(channels // conv.shape[1] for conv in convs),
        "reduction": part // state["se.fc1.weight"].shape[0],
    }


def _shared(state: State) -> State:
    """Give each of the four scales the bottleneck that they share."""
    return {
        name: value.repeat(4, *(1,) * (value.ndim - 1)) if name.startswith("se.") else value
        for name, value in state.items()
    }


def _context(state: State) -> Mapping[str, Any]:
    add, scale = (any(re_name in name for name in state) for re_name in ("_add", "_scale"))
    if not add:  # GCNet's own name of the second
        scale = True
    scale = scale or any("_mul" in name for name in state)
    pool = any(name.startswith(("conv_attn.", "conv_mask.")) for name in state)
    inner = next(v for n, v in state.items() if n.endswith(("fc1.weight", "conv.0.weight")))
    return {
        "fusion": "both" if add and scale else "scale" if scale else "add",
        "pool": "attention" if pool else "mean",
        "channels": inner.shape[1],
        "reduction": inner.shape[1] // inner.shape[0],
    }


def _paths(state: State) -> Mapping[str, Any]:
    first = state["paths.0.conv.weight"]
    return {
        "channels": first.shape[0],
        "groups": first.shape[0] // first.shape[1],
        "kernels": tuple(3 + 2 * i for i, _ in enumerate(numbered(state, r"^paths\.(\d+)\."))),
        "least": state["attn.fc_reduce.weight"].shape[0],
        "reduction": first.shape[0],
    }


def _unit(state: State) -> State:
    """Divide each class's weights by their length."""
    return {n: v / v.norm(dim=1, keepdim=True) if n == "head.weight" else v for n, v in state.items()}


MAPS: Mapping[str, Mapping[str, Source]] = {
    "se": {
        "timm": _se("SENet, RegNet, timm and torchvision, with ReLU and sigmoid"),
        "efficientnet": _se("the gate of EfficientNet in timm and torchvision, with SiLU", activation="silu"),
        "mobilenetv3": _se("the gate of MobileNetV3 in timm and torchvision, with a hard sigmoid", hard=True),
    },
    "cbam": {
        "authors": Source(
            "Jongchan/attention-module, with biases in the channel gate and a batch norm in the spatial one",
            shown_by=(r"^ChannelGate\.mlp\.1\.weight$", r"^SpatialGate\.spatial\.bn\."),
            arguments={"mlp_bias": True, "norm": True},
            sized={
                "channels": (r"^ChannelGate\.mlp\.1\.weight$", 1),
                "hidden": (r"^ChannelGate\.mlp\.1\.weight$", 0),
                "kernel_size": (r"^SpatialGate\.spatial\.conv\.weight$", 2),
            },
            checkpoint={
                r"^ChannelGate\.mlp\.1\.": "channel.squeeze.",
                r"^ChannelGate\.mlp\.3\.": "channel.excite.",
                r"^SpatialGate\.spatial\.conv\.": "spatial.conv.",
                r"^SpatialGate\.spatial\.bn\.": "spatial.norm.",
            },
            # There the last layer runs for either pool, so its bias counts twice.
            convert=scaled(2.0, "ChannelGate.mlp.3.bias"),
        ),
        "timm": Source(
            "timm's CbamModule, without biases and with a batch norm in the spatial gate",
            shown_by=(r"^channel\.fc1\.weight$", r"^spatial\.conv\.bn\."),
            arguments={"norm": True},
            sized={
                "channels": (r"^channel\.fc1\.weight$", 1),
                "hidden": (r"^channel\.fc1\.weight$", 0),
                "kernel_size": (r"^spatial\.conv\.conv\.weight$", 2),
            },
            checkpoint={
                r"^channel\.fc1\.": "channel.squeeze.",
                r"^channel\.fc2\.": "channel.excite.",
                r"^spatial\.conv\.conv\.": "spatial.conv.",
                r"^spatial\.conv\.bn\.": "spatial.norm.",
            },
            convert=_swapped,
        ),
    },
    "bam": {
        "authors": Source(
            "Jongchan/attention-module, whose gate is of the product of the branches",
            shown_by=(r"^channel_att\.gate_c\.gate_c_fc_0\.", r"^spatial_att\.gate_s\.gate_s_conv_final\."),
            arguments={"hidden_norms": True, "product": True, "dilation": 4},
            reads=lambda state: {
                "channels": state["channel_att.gate_c.gate_c_fc_0.weight"].shape[1],
                "reduction": state["channel_att.gate_c.gate_c_fc_0.weight"].shape[1]
                // state["channel_att.gate_c.gate_c_fc_0.weight"].shape[0],
                "channel_layers": len(numbered(state, r"gate_c_fc_(\d+)\.")),
                "spatial_layers": len(numbered(state, r"gate_s_conv_di_(\d+)\.")),
            },
            checkpoint={
                r"^channel_att\.gate_c\.gate_c_fc_(\d+)\.": r"channel.hidden.\1.conv.",
                r"^channel_att\.gate_c\.gate_c_fc_final\.": "channel.last.",
                **{rf"^channel_att\.gate_c\.gate_c_bn_{i + 1}\.": rf"channel.hidden.{i}.norm." for i in range(4)},
                r"^spatial_att\.gate_s\.gate_s_conv_reduce0\.": "spatial.hidden.0.conv.",
                r"^spatial_att\.gate_s\.gate_s_bn_reduce0\.": "spatial.hidden.0.norm.",
                **{
                    rf"^spatial_att\.gate_s\.gate_s_{theirs}_di_{i}\.": rf"spatial.hidden.{i + 1}.{ours}."
                    for i in range(4)
                    for theirs, ours in (("conv", "conv"), ("bn", "norm"))
                },
                r"^spatial_att\.gate_s\.gate_s_conv_final\.": "spatial.last.",
            },
        ),
    },
    "psa": {
        "authors": Source(
            "murufeng/EPSANet, with one bottleneck for all scales and the outputs backwards",
            shown_by=(r"^conv_4\.weight$", r"^se\.fc1\.weight$", r"^se\.fc2\.weight$"),
            arguments={"gate_bias": True, "split": False, "bias": False},
            reads=_scales,
            checkpoint={
                **{rf"^conv_{i}\.": f"convs.{4 - i}." for i in (1, 2, 3, 4)},
                r"^se\.fc1\.": "squeeze.",
                r"^se\.fc2\.": "excite.",
            },
            convert=_shared,
        ),
    },
    "sk": {
        "timm": Source(
            "timm's SelectiveKernel whose paths see all channels (split_input=False), as SK-ResNeXt has it",
            shown_by=(r"^paths\.0\.conv\.", r"^attn\.fc_reduce\."),
            arguments={"dilated": True, "norm": True},
            reads=_paths,
            checkpoint={
                r"^paths\.(\d+)\.conv\.": r"branches.\1.0.",
                r"^paths\.(\d+)\.bn\.": r"branches.\1.1.",
                r"^attn\.fc_reduce\.": "squeeze.",
                r"^attn\.bn\.": "norm.0.",
                r"^attn\.fc_select\.": "choose.",
            },
            convert=zeros("attn.fc_select.bias", "attn.fc_select.weight"),
        ),
        "timm-split": Source(
            "timm's SelectiveKernel whose paths see a share of the channels each (split_input=True), as in SK-ResNet",
            shown_by=(r"^paths\.0\.conv\.", r"^attn\.fc_reduce\."),
            refused="its paths look at different channels, which is not the paper's formula",
        ),
    },
    "gc": {
        name: Source(
            of,
            shown_by=(shown,),
            arguments=arguments,
            reads=_context,
            checkpoint={
                r"^conv_(attn|mask)\.bias$": None,  # a shift that the softmax takes no notice of
                r"^conv_(attn|mask)\.": "weigh.",
                r"^(mlp|channel)_add(_conv)?\.": "add.",
                r"^(mlp_scale|channel_mul_conv)\.": "scale.",
                r"\.fc1\.": ".0.",
                r"\.norm\.": ".1.",
                r"\.fc2\.": ".3.",
            },
        )
        for name, of, shown, arguments in (
            (
                "timm",
                "timm's GlobalContext, whose layer norm has ε = 1e-6",
                r"^mlp_(add|scale)\.fc1\.",
                {"epsilon": 1e-6},
            ),
            ("authors", "xvjiarui/GCNet", r"^channel_(add|mul)_conv\.0\.", {}),
        )
    },
    "nam": {
        "authors": Source(
            "Christian-lyc/NAM, which has the channel gate alone",
            shown_by=(r"^Channel_Att\.bn2\.",),
            sized={"channels": (r"^Channel_Att\.bn2\.weight$", 0)},
            checkpoint={r"^Channel_Att\.bn2\.": "channel_norm."},
        ),
    },
    "ema": {
        "authors": Source(
            "YOLOonMe/EMA-attention-module",
            shown_by=(r"^conv1x1\.weight$", r"^conv3x3\.weight$", r"^gn\."),
            checkpoint={r"^conv1x1\.": "pointwise.", r"^conv3x3\.": "local.", r"^gn\.": "norm."},
        ),
    },
    "residual_attention": {
        name: Source(
            f"Kevinz-code/CSRA with T = {t}, which divides each class's weights by their length",
            shown_by=(r"^head\.weight$",),
            arguments={"temperatures": temperatures},
            sized={"channels": (r"^head\.weight$", 1), "classes": (r"^head\.weight$", 0)},
            checkpoint={r"^head\.": "scores."},
            convert=_unit,
        )
        for name, t, temperatures in (("maximum", 99, (None,)), ("softmax", 1, (1.0,)))
    },
}
