"""Attention on tokens and on maps, as PyTorch, timm and the authors name it."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

from attn_export.export.weights.published.convert import State, numbered, scaled, split
from attn_export.mechanisms.spec import Source


def _lambda(state: State) -> State:
    """Cut the joined projection, and take the axis off the window that timm's 3-D convolution has."""
    q, v, u = (state[name].shape[0] for name in ("norm_q.weight", "norm_v.weight", "conv_lambda.weight"))
    state = {**state, "conv_lambda.weight": state["conv_lambda.weight"].squeeze(-1)}
    whole = state.pop("qkv.weight")
    query, key, value = whole.split([q, u, v])
    return {**state, "query.weight": query, "key.weight": key, "value.weight": value}


def _botnet(state: State) -> State:
    """Scale the positions: timm scales the content alone, and here both are scaled."""
    d = state["pos_embed.height_rel"].shape[1]
    return scaled(sqrt(d), "pos_embed.height_rel", "pos_embed.width_rel")(state)


def _focal(state: State) -> Mapping[str, Any]:
    sides = [state[f"focal_layers.{i}.0.weight"].shape[2] for (i,) in numbered(state, r"^focal_layers\.(\d+)\.")]
    return {
        "channels": state["proj.weight"].shape[0],
        "levels": len(sides),
        "window": sides[0],
        "factor": sides[1] - sides[0] if len(sides) > 1 else 2,
        "bias": "f.bias" in state,
        "post_norm": any(name.startswith(("norm.", "ln.")) for name in state),
    }


_FOCAL = {
    r"^f\.": "split.",
    r"^h\.": "modulate.",
    r"^proj\.": "project.",
    r"^focal_layers\.(\d+)\.0\.": r"contexts.\1.",
    r"^(norm|ln)\.": "norm.",
}
_FOCAL_SHOWN = (r"^f\.weight$", r"^h\.weight$", r"^focal_layers\.0\.0\.")


def _queries(name: str) -> Any:
    """Split MobileViT v2's projection: one score, then keys and values."""

    def run(state: State) -> State:
        d = (state[f"{name}.weight"].shape[0] - 1) // 2
        return split(name, ("score", "key", "value"), (1, d, d))(state)

    return run


MAPS: Mapping[str, Mapping[str, Source]] = {
    "self_attention": {
        "torch": Source(
            "torch.nn.MultiheadAttention, whose projections are one",
            shown_by=(r"^in_proj_weight$", r"^out_proj\."),
            reads=lambda state: {
                "channels": state["out_proj.weight"].shape[0],
                "d_k": None,
                "d_v": None,
            },
            checkpoint={r"^out_proj\.": "project."},
            convert=split("in_proj", ("query", "key", "value")),
        ),
    },
    "external": {
        "authors": Source(
            "MenghaoGuo/EANet: its two linear layers, without the convolutions and the residual around them",
            shown_by=(r"^linear_0\.weight$", r"^linear_1\.weight$"),
            sized={"channels": (r"^linear_0\.weight$", 1), "memory": (r"^linear_0\.weight$", 0)},
            checkpoint={r"^linear_0\.": "keys.", r"^linear_1\.": "values."},
        ),
    },
    "danet": {
        "authors": Source(
            "junfu1115/DANet, whose channel attention looks at what is unlike",
            shown_by=(r"^sa\.query_conv\.", r"^sc\.gamma$"),
            arguments={"inverted": True},
            reads=lambda state: {
                "channels": state["sa.query_conv.weight"].shape[1],
                "reduction": state["sa.query_conv.weight"].shape[1] // state["sa.query_conv.weight"].shape[0],
            },
            checkpoint={
                r"^sa\.(query|key|value)_conv\.": r"position.\1.",
                r"^sa\.gamma$": "position.gamma",
                r"^sc\.gamma$": "channel.gamma",
            },
        ),
    },
    "emsa": {
        "authors": Source(
            "wofmanaf/ResT, whose keys and values are one projection",
            shown_by=(r"^q\.weight$", r"^kv\.weight$", r"^proj\."),
            reads=lambda state: {
                "channels": state["proj.weight"].shape[0],
                "d_k": None,
                "d_v": None,
                "ratio": state["sr.weight"].shape[2] - 1 if "sr.weight" in state else 1,
                "transform": "transform_conv.weight" in state,
            },
            checkpoint={
                r"^q\.": "query.",
                r"^proj\.": "project.",
                r"^sr\.": "reduce.",
                r"^sr_norm\.": "norm.",
                r"^transform_conv\.": "mix.",
            },
            convert=split("kv", ("key", "value")),
        ),
    },
    "vip": {
        "authors": Source(
            "houqb/VisionPermutator, which weighs rows, columns and channels in this order",
            shown_by=(r"^mlp_h\.", r"^reweight\.fc1\."),
            reads=lambda state: {
                "channels": state["proj.weight"].shape[0],
                "reduction": state["proj.weight"].shape[0] // state["reweight.fc1.weight"].shape[0],
            },
            checkpoint={
                r"^mlp_h\.": "rows.",
                r"^mlp_w\.": "columns.",
                r"^mlp_c\.": "channels.",
                r"^reweight\.fc1\.": "squeeze.",
                r"^reweight\.fc2\.": "weigh.",
                r"^proj\.": "project.",
            },
            convert=lambda state: {
                # The three weights of a channel lie side by side there.
                name: value.reshape(-1, 3, *value.shape[1:]).transpose(0, 1).reshape(value.shape)
                if name.startswith("reweight.fc2.")
                else value
                for name, value in state.items()
            },
        ),
    },
    "cot": {
        "authors": Source(
            "JDAI-CV/CoTNet",
            shown_by=(r"^key_embed\.0\.", r"^embed\.3\.", r"^conv1x1\.0\."),
            checkpoint={
                r"^key_embed\.": "key.",
                r"^embed\.": "weigh.",
                r"^conv1x1\.": "value.",
                r"^bn\.": "norm.",
                r"^se\.": "gate.",
            },
        ),
    },
    "lka": {
        "authors": Source(
            "Visual-Attention-Network: the gate, or the gate between its two layers",
            shown_by=(r"(^|^spatial_gating_unit\.)conv0\.", r"(^|^spatial_gating_unit\.)conv_spatial\."),
            reads=lambda state: {"block": "proj_1.weight" in state},
            checkpoint={
                r"^spatial_gating_unit\.": "",
                r"^conv0\.": "near.",
                r"^conv_spatial\.": "far.",
                r"^conv1\.": "mix.",
                r"^proj_1\.": "enter.",
                r"^proj_2\.": "leave.",
            },
        ),
    },
    "lska": {
        "authors": Source(
            "StevenLauHKHK/Large-Separable-Kernel-Attention",
            shown_by=(r"^conv0h\.", r"^conv_spatial_v\."),
            checkpoint={
                r"^conv0h\.": "near_row.",
                r"^conv0v\.": "near_column.",
                r"^conv_spatial_h\.": "far_row.",
                r"^conv_spatial_v\.": "far_column.",
                r"^conv1\.": "mix.",
            },
        ),
    },
    "relu_linear": {
        "authors": Source(
            "mit-han-lab/efficientvit, whose ε is 1e-15, and those weights in timm, whose ε is 1e-5",
            shown_by=(r"^qkv\.conv\.", r"^proj\.conv\."),
            reads=lambda state: {
                "channels": state["qkv.conv.weight"].shape[1],
                "outputs": state["proj.conv.weight"].shape[0],
                "scales": tuple(
                    state[f"aggreg.{i}.0.weight"].shape[2] for (i,) in numbered(state, r"^aggreg\.(\d+)\.")
                ),
            },
            checkpoint={
                r"^qkv\.conv\.": "qkv.",
                r"^aggreg\.": "aggregate.",
                r"^proj\.conv\.": "project.conv.",
                r"^proj\.norm\.": "project.bn.",
            },
        ),
    },
    "non_local": {
        "timm": Source(
            "timm's NonLocalAttn, which scales its logits by the width of the map",
            shown_by=(r"^t\.weight$", r"^p\.weight$", r"^z\.weight$"),
            arguments={"pair": "embedded", "pool": False, "norm": True},
            sized={"channels": (r"^t\.weight$", 1), "hidden": (r"^t\.weight$", 0)},
            checkpoint={r"^t\.": "query.", r"^p\.": "key.", r"^g\.": "value.", r"^z\.": "project."},
            convert=lambda state: scaled(state["t.weight"].shape[1] ** -0.5, "t.weight", "t.bias")(state),
        ),
    },
    "xca": {
        "authors": Source(
            "facebookresearch/xcit and timm's XCA",
            shown_by=(r"^temperature$", r"^qkv\.weight$", r"^proj\.weight$"),
            reads=lambda state: {
                "channels": state["proj.weight"].shape[0],
                "heads": state["temperature"].shape[0],
                "qkv_bias": "qkv.bias" in state,
            },
            checkpoint={r"^proj\.": "out."},
        ),
    },
    "focal_modulation": {
        "authors": Source(
            "microsoft/FocalNet; timm's names are the same where nothing is normalised behind the contexts",
            shown_by=_FOCAL_SHOWN,
            not_by=(r"^norm\.",),
            arguments={"normalise": False},
            reads=_focal,
            checkpoint=_FOCAL,
        ),
        "normalised": Source(
            "microsoft/FocalNet with normalize_modulator, which divides by the number of contexts",
            shown_by=_FOCAL_SHOWN,
            not_by=(r"^norm\.",),
            arguments={"normalise": True},
            reads=_focal,
            checkpoint=_FOCAL,
        ),
        "timm": Source(
            "timm's FocalModulation with a norm behind the contexts, of ε = 1e-6",
            shown_by=(*_FOCAL_SHOWN, r"^norm\."),
            arguments={"normalise": False, "epsilon": 1e-6},
            reads=_focal,
            checkpoint=_FOCAL,
        ),
        "timm-normalised": Source(
            "the same, with normalize_modulator",
            shown_by=(*_FOCAL_SHOWN, r"^norm\."),
            arguments={"normalise": True, "epsilon": 1e-6},
            reads=_focal,
            checkpoint=_FOCAL,
        ),
    },
    "lambda_layer": {
        "timm": Source(
            "timm's LambdaLayer with a window, whose position lambdas have a bias",
            shown_by=(r"^conv_lambda\.", r"^norm_q\.", r"^norm_v\."),
            arguments={"position_bias": True, "depth": 1},
            reads=lambda state: {
                "channels": state["qkv.weight"].shape[1],
                "d_key": state["conv_lambda.weight"].shape[0],
                "heads": state["norm_q.weight"].shape[0] // state["conv_lambda.weight"].shape[0],
                "outputs": state["norm_q.weight"].shape[0]
                // state["conv_lambda.weight"].shape[0]
                * state["norm_v.weight"].shape[0],
                "receptive": state["conv_lambda.weight"].shape[2],
            },
            checkpoint={r"^norm_q\.": "query_norm.", r"^norm_v\.": "value_norm.", r"^conv_lambda\.": "position."},
            convert=_lambda,
        ),
    },
    "botnet_mhsa": {
        "timm": Source(
            "timm's BottleneckAttn as its networks are built, which scales the content alone",
            shown_by=(r"^qkv\.weight$", r"^pos_embed\.height_rel$"),
            arguments={"position": "relative"},
            reads=lambda state: {
                "channels": state["qkv.weight"].shape[1],
                "size": tuple((state[f"pos_embed.{side}_rel"].shape[0] + 1) // 2 for side in ("height", "width")),
                "d_head": state["pos_embed.height_rel"].shape[1],
                "heads": state["qkv.weight"].shape[0] // 3 // state["pos_embed.height_rel"].shape[1],
            },
            checkpoint={r"^pos_embed\.height_rel$": "rows", r"^pos_embed\.width_rel$": "columns"},
            convert=_botnet,
        ),
        "timm-scaled": Source(
            "timm's BottleneckAttn with scale_pos_embed, as the paper has it",
            shown_by=(r"^qkv\.weight$", r"^pos_embed\.height_rel$"),
            only_asked=True,
            arguments={"position": "relative"},
            reads=lambda state: {
                "channels": state["qkv.weight"].shape[1],
                "size": tuple((state[f"pos_embed.{side}_rel"].shape[0] + 1) // 2 for side in ("height", "width")),
                "d_head": state["pos_embed.height_rel"].shape[1],
                "heads": state["qkv.weight"].shape[0] // 3 // state["pos_embed.height_rel"].shape[1],
            },
            checkpoint={r"^pos_embed\.height_rel$": "rows", r"^pos_embed\.width_rel$": "columns"},
        ),
    },
    "halo": {
        "timm": Source(
            "timm's HaloAttn",
            shown_by=(r"^q\.weight$", r"^kv\.weight$", r"^pos_embed\.height_rel$"),
            refused="what lies outside the map is attended to there as zeros, and hidden here",
        ),
    },
    "sdta": {
        name: Source(
            of,
            shown_by=(r"^gamma_xca$", r"^xca\.qkv\.", shown),
            reads=lambda state: {
                "channels": state["gamma_xca"].shape[0],
                "heads": state["xca.temperature"].shape[0],
            },
            checkpoint={
                r"^gamma_xca$": "attention_scale",
                r"^gamma$": "mlp_scale",
                r"^convs\.": "cascade.",
                r"^pos_embd\.token_projection\.": "position.project.",
                r"^norm_xca\.": "attention_norm.",
                r"^norm\.": "mlp_norm.",
                r"^xca\.proj\.": "attention.out.",
                r"^xca\.": "attention.",
                r"^(mlp\.fc1|pwconv1)\.": "mlp.0.",
                r"^(mlp\.fc2|pwconv2)\.": "mlp.2.",
            },
        )
        for name, of, shown in (
            ("timm", "timm's SplitTransposeBlock", r"^mlp\.fc1\."),
            ("authors", "mmaaz60/EdgeNeXt", r"^pwconv1\."),
        )
    },
    "mobilevit_attention": {
        "timm": Source(
            "timm's MobileVitBlock, whose queries, keys and values have biases",
            shown_by=(r"^conv_kxk\.conv\.", r"^transformer\.0\.attn\.qkv\."),
            arguments={"plain": False},
            reads=lambda state: {
                "channels": state["conv_1x1.weight"].shape[1],
                "dim": state["conv_1x1.weight"].shape[0],
                "kernel": state["conv_kxk.conv.weight"].shape[2],
                "depth": len(numbered(state, r"^transformer\.(\d+)\.")),
                "d_head": None,
                "hidden": state["transformer.0.mlp.fc1.weight"].shape[0],
                "qkv_bias": "transformer.0.attn.qkv.bias" in state,
            },
            checkpoint={
                r"^conv_kxk\.conv\.": "local.0.",
                r"^conv_kxk\.bn\.": "local.1.",
                r"^conv_1x1\.": "widen.",
                r"^conv_proj\.conv\.": "narrow.0.",
                r"^conv_proj\.bn\.": "narrow.1.",
                r"^conv_fusion\.conv\.": "fuse.0.",
                r"^conv_fusion\.bn\.": "fuse.1.",
                r"^transformer\.(\d+)\.attn\.proj\.": r"transformer.layers.\1.out.",
                r"^transformer\.(\d+)\.(attn\.)?(qkv|norm1|norm2)\.": r"transformer.layers.\1.\3.",
                r"^transformer\.(\d+)\.mlp\.fc1\.": r"transformer.layers.\1.mlp.0.",
                r"^transformer\.(\d+)\.mlp\.fc2\.": r"transformer.layers.\1.mlp.2.",
            },
        ),
    },
    "mobilevitv2": {
        "timm": Source(
            "timm's LinearSelfAttention, whose projections are one",
            shown_by=(r"^qkv_proj\.weight$", r"^out_proj\.weight$"),
            sized={"channels": (r"^out_proj\.weight$", 0)},
            arguments={"relu": True},
            checkpoint={r"^out_proj\.": "out."},
            convert=_queries("qkv_proj"),
        ),
        "authors": Source(
            "apple/ml-cvnets LinearSelfAttention, whose projections are one",
            shown_by=(r"^qkv_proj\.block\.conv\.", r"^out_proj\.block\.conv\."),
            sized={"channels": (r"^out_proj\.block\.conv\.weight$", 0)},
            arguments={"relu": True},
            checkpoint={r"^out_proj\.block\.conv\.": "out."},
            convert=_queries("qkv_proj.block.conv"),
        ),
    },
}
