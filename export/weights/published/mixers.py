"""Networks of linear layers and of filters, as timm and the authors name them."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

from attn_export.export.weights.published.convert import State, flat, numbered
from attn_export.mechanisms.spec import Source


def _net(state: State, embed: str) -> dict[str, Any]:
    return {
        "patch": state[embed].shape[2],
        "channels": state[embed].shape[0],
        "depth": len(numbered(state, r"^blocks\.(\d+)\.")),
        "classes": state["head.weight"].shape[0],
    }


def _square(tokens: int, patch: int) -> int:
    if isqrt(tokens) ** 2 != tokens:
        raise ValueError(f"{tokens} patches are of no square image")
    return isqrt(tokens) * patch


def _mixer(state: State) -> Mapping[str, Any]:
    net = _net(state, "stem.proj.weight")
    first = "blocks.0.mlp_{}.fc1.weight"
    return {
        **net,
        "size": _square(state[first.format("tokens")].shape[1], net["patch"]),
        "patch_hidden": state[first.format("tokens")].shape[0],
        "channel_hidden": state[first.format("channels")].shape[0],
    }


def _resmlp(embed: str, tokens: str, widen: str) -> Any:
    def read(state: State) -> Mapping[str, Any]:
        net = _net(state, embed)
        wide = state[widen].shape[0]
        return {**net, "size": _square(state[tokens].shape[0], net["patch"]), "expand": wide // net["channels"]}

    return read


def _gfnet(state: State) -> Mapping[str, Any]:
    net = _net(state, "patch_embed.proj.weight")
    hidden = state["blocks.0.mlp.fc1.weight"].shape[0]
    return {**net, "size": _square(state["pos_embed"].shape[1], net["patch"]), "mlp_ratio": hidden / net["channels"]}


_RESMLP = {
    r"\.norm1\.alpha$": ".before_patches.scale",
    r"\.norm1\.beta$": ".before_patches.shift",
    r"\.norm2\.alpha$": ".before_channels.scale",
    r"\.norm2\.beta$": ".before_channels.shift",
    r"^norm\.alpha$": "norm.scale",
    r"^norm\.beta$": "norm.shift",
}

MAPS: Mapping[str, Mapping[str, Source]] = {
    "mlp_mixer": {
        "timm": Source(
            "timm's MlpMixer, and Google's weights in it, whose norms have ε = 1e-6",
            shown_by=(r"^stem\.proj\.", r"^blocks\.0\.mlp_tokens\.fc1\."),
            arguments={"epsilon": 1e-6},
            reads=_mixer,
            checkpoint={
                r"^stem\.proj\.": "embed.",
                r"\.norm1\.": ".patch_norm.",
                r"\.norm2\.": ".channel_norm.",
                r"\.mlp_tokens\.": ".patch_mlp.",
                r"\.mlp_channels\.": ".channel_mlp.",
                r"\.fc1\.": ".widen.",
                r"\.fc2\.": ".narrow.",
            },
        ),
    },
    "resmlp": {
        "timm": Source(
            "timm's ResMLP",
            shown_by=(r"^stem\.proj\.", r"^blocks\.0\.linear_tokens\."),
            reads=_resmlp("stem.proj.weight", "blocks.0.linear_tokens.weight", "blocks.0.mlp_channels.fc1.weight"),
            checkpoint={
                r"^stem\.proj\.": "embed.",
                r"\.ls1$": ".patch_scale",
                r"\.ls2$": ".channel_scale",
                **_RESMLP,
                r"\.linear_tokens\.": ".across_patches.",
                r"\.mlp_channels\.fc1\.": ".widen.",
                r"\.mlp_channels\.fc2\.": ".narrow.",
            },
            convert=flat(".alpha", ".beta"),
        ),
        "authors": Source(
            "facebookresearch/deit",
            shown_by=(r"^patch_embed\.proj\.", r"^blocks\.0\.gamma_1$", r"^blocks\.0\.attn\.weight$"),
            reads=_resmlp("patch_embed.proj.weight", "blocks.0.attn.weight", "blocks.0.mlp.fc1.weight"),
            checkpoint={
                r"^patch_embed\.proj\.": "embed.",
                r"\.gamma_1$": ".patch_scale",
                r"\.gamma_2$": ".channel_scale",
                **_RESMLP,
                r"\.attn\.": ".across_patches.",
                r"\.mlp\.fc1\.": ".widen.",
                r"\.mlp\.fc2\.": ".narrow.",
            },
        ),
    },
    "gmlp": {
        "timm": Source(
            "timm's gMLP from the patches on, without its stem, and without the mean and the head behind it",
            shown_by=(r"^blocks\.0\.mlp_channels\.gate\.proj\.", r"^norm\."),
            not_by=(r"^stem\.", r"^head\."),
            arguments={"vocabulary": 0, "epsilon": 1e-6},
            reads=lambda state: {
                "tokens": state["blocks.0.mlp_channels.gate.proj.weight"].shape[0],
                "channels": state["norm.weight"].shape[0],
                "features": state["blocks.0.mlp_channels.fc2.weight"].shape[1],
                "depth": len(numbered(state, r"^blocks\.(\d+)\.")),
            },
            checkpoint={
                r"\.mlp_channels\.fc1\.": ".widen.",
                r"\.mlp_channels\.fc2\.": ".narrow.",
                r"\.mlp_channels\.gate\.proj\.": ".gate.across.",
                r"\.mlp_channels\.gate\.": ".gate.",
            },
        ),
    },
    "gfnet": {
        "authors": Source(
            "raoyongming/GFNet, whose norms have ε = 1e-6",
            shown_by=(r"^patch_embed\.proj\.", r"^pos_embed$", r"^blocks\.0\.filter\.complex_weight$"),
            arguments={"epsilon": 1e-6},
            reads=_gfnet,
            checkpoint={
                r"^patch_embed\.proj\.": "embed.",
                r"^pos_embed$": "position",
                r"\.filter\.complex_weight$": ".filter.weight",
                r"\.mlp\.fc1\.": ".mlp.0.",
                r"\.mlp\.fc2\.": ".mlp.2.",
            },
        ),
    },
}
