"""Blocks that are trained with several branches, as Apple, THU-MIG, DingXiaoH, timm and other authors name them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attn_export.export.weights.published.convert import State, numbered
from attn_export.mechanisms.spec import Source

#: Parts of a MobileOne block at Apple and in timm.
_PARTS = {
    r"\b(rbr_conv|conv_kxk)\.": "branches.",
    r"\b(rbr_scale|conv_scale)\.": "point.",
    r"\b(rbr_skip|identity)\.": "identity.",
    r"\b(se\.reduce|attn\.fc1)\.": "gate.conv_reduce.",
    r"\b(se\.expand|attn\.fc2)\.": "gate.conv_expand.",
}


def _pairs(state: State) -> State:
    """Bring a stage's layers, depth-wise and point-wise by turns, under our blocks; Apple's stage 0 is the stem."""
    named: State = {}
    for name, value in state.items():
        if found := re.match(r"^(?:stage|stages\.)(\d)\.(\d+)\.(?=rbr|conv_|identity|se\.|attn)(.*)", name):
            stage, layer = int(found[1]) - name.startswith("stage" + found[1]), int(found[2])
            kind = "pointwise" if layer % 2 else "depthwise"
            named[f"stages.{stage}.{layer // 2}.{kind}.{found[3]}"] = value
        else:
            named[re.sub(r"^stage0\.", "stem.", name)] = value
    return named


def _mobileone(state: State) -> Mapping[str, Any]:
    state = _pairs(state)
    where = r"^stages\.(\d+)\.(\d+)\.pointwise\.\w+\.0\.conv\.weight$"
    width = {
        tuple(map(int, found.groups())): value.shape[0]
        for name, value in state.items()
        if (found := re.match(where, name))
    }
    depths = [sum(stage == s for stage, _ in width) for s in range(4)]
    stem = next(value for name, value in state.items() if re.match(r"^stem\..*conv\.weight$", name))
    gated = [0] * 4
    for stage, _ in numbered(state, r"^stages\.(\d+)\.(\d+)\.pointwise\.(?:se|attn)\."):
        gated[stage] += 1
    head = next(value for name, value in state.items() if re.match(r"^(linear|head\.fc)\.weight$", name))
    return {
        "widths": (stem.shape[0], *(width[stage, 0] for stage in range(4))),
        "depths": tuple(depths),
        "branches": len(numbered(state, r"^stages\.0\.0\.pointwise\.(?:rbr_conv|conv_kxk)\.(\d+)\.")),
        "classes": head.shape[0],
        "gated": tuple(gated),
    }


def _mobileone_block(state: State) -> Mapping[str, Any]:
    first, second = (state[name] for name in state if re.match(r"^[01]\.(rbr_conv|conv_kxk)\.0\.conv\.weight$", name))
    return {
        "channels": first.shape[0],
        "out_channels": second.shape[0],
        "kernel": first.shape[2],
        "branches": len(numbered(state, r"^1\.(?:rbr_conv|conv_kxk)\.(\d+)\.")),
    }


def _mobileone_maps(shown: Mapping[str, tuple[str, ...]], **more: Any) -> dict[str, Source]:
    who = {"authors": "apple/ml-mobileone", "timm": "timm's MobileOne"}
    return {name: Source(who[name], shown_by=patterns, **more) for name, patterns in shown.items()}


def _repvit(state: State) -> Mapping[str, Any]:
    first = next(v for n, v in state.items() if re.match(r"^token_mixer\.(0\.)?(conv\.)?(c\.)weight$", n))
    whole = any(n.startswith(("token_mixer.0.bn.", "token_mixer.bn.")) for n in state)
    halving = not any(re.match(r"^token_mixer\.(0\.)?conv1\.", n) for n in state)
    widen = next(v for n, v in state.items() if re.match(r"^channel_mixer\.(m\.0|conv1)\.c\.weight$", n))
    gate = [v for n, v in state.items() if re.match(r"^(token_mixer\.1|se)\.(fc1|conv_reduce)\.weight$", n)]
    if not whole:
        raise ValueError("a block's filter has a norm behind it")
    return {
        "channels": first.shape[0],
        "out_channels": widen.shape[1],
        "stride": 2 if halving else 1,
        "expand": widen.shape[0] // widen.shape[1],
        "gate": bool(gate),
        "gate_bias": bool(gate),
        "gate_hidden": gate[0].shape[0] if gate else None,
    }


_CONV_BN = {r"\.c\.": ".conv."}
_SE = {
    r"^(token_mixer\.1|se)\.(fc1|conv_reduce)\.": "gate.squeeze.",
    r"^(token_mixer\.1|se)\.(fc2|conv_expand)\.": "gate.excite.",
}
_MIXER = {r"^channel_mixer\.(m\.0|conv1)\.": "widen.", r"^channel_mixer\.(m\.2|conv2)\.": "narrow."}


def _repvit_names(state: State) -> State:
    """Rename the token mixer, whose names mean one thing at stride 1 and another at 2."""
    halving = not any(re.match(r"^token_mixer\.(0\.)?conv1\.", n) for n in state)
    pairs = (
        {r"^token_mixer\.0\.": "filter.", r"^token_mixer\.2\.": "mix."}
        if halving
        else {
            r"^token_mixer\.(0\.)?conv\.": "filter.dense.",
            r"^token_mixer\.(0\.)?conv1\.": "filter.point.",
            r"^token_mixer\.(0\.)?bn\.": "filter.norm.",
        }
    )
    named = {}
    for name, value in state.items():
        new = name
        for pattern, ours in pairs.items():
            new = re.sub(pattern, ours, new)
        named[new] = value
    return named


def _dilated(state: State) -> Mapping[str, Any]:
    return {
        "channels": state["lk_origin.weight"].shape[0],
        "kernel": state["lk_origin.weight"].shape[2],
        "branches": _dilations(state),
    }


def _dilations(state: State) -> tuple[tuple[int, ...], ...]:
    """List side and dilation of the branches, in the order of the dilations as the authors build them."""
    return tuple(sorted(numbered(state, r"^dil_conv_k(\d+)_(\d+)\."), key=lambda pair: pair[1]))


def _dilated_names(state: State) -> State:
    order = {f"k{side}_{step}": i for i, (side, step) in enumerate(_dilations(state))}
    return {
        re.sub(r"^dil_(conv|bn)_(k\d+_\d+)\.", lambda found: f"small.{order[found[2]]}.{found[1]}.", name): value
        for name, value in state.items()
    }


def _repghost(state: State) -> Mapping[str, Any]:
    gate = state.get("se.conv_reduce.weight")
    first, second = state["ghost1.primary_conv.0.weight"], state["ghost2.primary_conv.0.weight"]
    return {
        "channels": first.shape[1],
        "middle": first.shape[0],
        "out_channels": second.shape[0],
        "kernel": state["conv_dw.weight"].shape[2] if "conv_dw.weight" in state else 3,
        "squeeze": 1.0 if gate is not None else 0.0,
        "gate_hidden": None if gate is None else gate.shape[0],
    }


def _dbb(state: State) -> State:
    """Add the identity that the first layer of a branch is a difference from; its buffer, where there is one, goes."""
    import torch

    state = dict(state)
    name = "dbb_1x1_kxk.idconv1.weight"
    if name in state:
        weight = state[name]
        inputs = weight.shape[1]
        identity = torch.eye(inputs, dtype=weight.dtype).repeat(weight.shape[0] // inputs, 1)
        state[name] = weight + identity.reshape(weight.shape)
    return state


def _ecb(state: State) -> State:
    """Drop the masks, once they are the ones that our edges have."""
    import torch

    masks = {
        "sbx": ((1, 0, -1), (2, 0, -2), (1, 0, -1)),
        "sby": ((1, 2, 1), (0, 0, 0), (-1, -2, -1)),
        "lpl": ((0, 1, 0), (1, -4, 1), (0, 1, 0)),
    }
    state = dict(state)
    for name, mask in masks.items():
        found = state.pop(f"conv1x1_{name}.mask")
        if not torch.equal(found, torch.tensor(mask, dtype=found.dtype).expand_as(found)):
            raise ValueError(f"conv1x1_{name}.mask is not the {mask} of the paper")
    return state


MAPS: Mapping[str, Mapping[str, Source]] = {
    "mobileone": _mobileone_maps(
        {
            "authors": (r"^stage0\.rbr_conv\.0\.conv\.", r"^stage1\.0\.rbr_conv\.", r"^linear\."),
            "timm": (r"^stem\.conv_kxk\.0\.conv\.", r"^stages\.0\.0\.conv_kxk\.", r"^head\.fc\."),
        },
        reads=_mobileone,
        checkpoint={**_PARTS, r"^(linear|head\.fc)\.": "head."},
        convert=_pairs,
    ),
    "mobileone_block": _mobileone_maps(
        {
            "authors": (r"^0\.rbr_conv\.0\.conv\.", r"^1\.rbr_conv\.0\.conv\."),
            "timm": (r"^0\.conv_kxk\.0\.conv\.", r"^1\.conv_kxk\.0\.conv\."),
        },
        reads=_mobileone_block,
        checkpoint={r"^0\.": "depthwise.", r"^1\.": "pointwise.", **_PARTS},
    ),
    "repvit_block": {
        "authors": Source(
            "THU-MIG/RepViT and timm, whose gates have biases and a width of whole eights",
            shown_by=(r"^token_mixer\.", r"^channel_mixer\.(m\.0|conv1)\.c\."),
            reads=_repvit,
            checkpoint={**_SE, **_MIXER, **_CONV_BN},
            convert=_repvit_names,
        ),
    },
    "repmixer": {
        "authors": Source(
            "apple/ml-fastvit and timm's RepMixer",
            shown_by=(r"^norm\.(rbr_skip|identity)\.", r"^mixer\.(rbr_conv|conv_kxk)\.0\.conv\.", r"^layer_scale"),
            reads=lambda state: {
                "channels": state[next(n for n in state if n.startswith("layer_scale"))].shape[0],
                "kernel": next(v for n, v in state.items() if n.endswith(".0.conv.weight")).shape[2],
            },
            checkpoint={
                r"^norm\.(rbr_skip|identity)\.": "norm.",
                r"^mixer\.(rbr_conv|conv_kxk)\.0\.": "dense.",
                r"^mixer\.(rbr_scale|conv_scale)\.": "point.",
                r"^mixer\.(rbr_skip|identity)\.": "identity.",
                r"^layer_scale(\.gamma)?$": "gamma",
            },
        ),
    },
    "dilated_reparam": {
        "authors": Source(
            "AILab-CVC/UniRepLKNet",
            shown_by=(r"^lk_origin\.", r"^origin_bn\.", r"^dil_conv_k\d+_\d+\."),
            reads=_dilated,
            checkpoint={r"^lk_origin\.": "large.conv.", r"^origin_bn\.": "large.bn."},
            convert=_dilated_names,
        ),
    },
    "replk": {
        "authors": Source(
            "DingXiaoH/RepLKNet-pytorch",
            shown_by=(r"^prelkb_bn\.", r"^large_kernel\.lkb_origin\.conv\."),
            reads=lambda state: {
                "channels": state["prelkb_bn.weight"].shape[0],
                "kernel": state["large_kernel.lkb_origin.conv.weight"].shape[2],
                "small": state["large_kernel.small_conv.conv.weight"].shape[2],
                "expand": state["pw1.conv.weight"].shape[0] // state["pw1.conv.weight"].shape[1],
            },
            checkpoint={
                r"^prelkb_bn\.": "norm.",
                r"^pw1\.": "widen.",
                r"^pw2\.": "narrow.",
                r"^large_kernel\.lkb_origin\.": "large.",
                r"^large_kernel\.small_conv\.": "small.",
            },
        ),
    },
    "repghost": {
        "authors": Source(
            "ChengpengChen/RepGhost and timm, whose gates have a width of whole fours",
            shown_by=(r"^ghost1\.primary_conv\.0\.", r"^ghost2\.fusion_bn\.0\."),
            reads=_repghost,
            checkpoint={
                r"^ghost1\.": "first.",
                r"^ghost2\.": "second.",
                r"\.primary_conv\.0\.": ".primary.conv.",
                r"\.primary_conv\.1\.": ".primary.bn.",
                r"\.fusion_bn\.0\.": ".identity.",
                r"\.cheap_operation\.0\.": ".cheap.conv.",
                r"\.cheap_operation\.1\.": ".cheap.bn.",
                r"^conv_dw\.": "shrink.conv.",
                r"^bn_dw\.": "shrink.bn.",
                r"^se\.conv_reduce\.": "gate.conv_reduce.",
                r"^se\.conv_expand\.": "gate.conv_expand.",
                r"^shortcut\.0\.": "shortcut.0.conv.",
                r"^shortcut\.1\.": "shortcut.0.bn.",
                r"^shortcut\.2\.": "shortcut.1.conv.",
                r"^shortcut\.3\.": "shortcut.1.bn.",
            },
        ),
    },
    "qarepvgg": {
        "authors": Source(
            "meituan/YOLOv6 QARepVGGBlock",
            shown_by=(r"^rbr_dense\.conv\.", r"^rbr_1x1\.weight$", r"^bn\."),
            checkpoint={r"^rbr_dense\.": "dense.", r"^rbr_1x1\.": "pointwise.", r"^bn\.": "norm."},
        ),
    },
    "acnet": {
        "authors": Source(
            "DingXiaoH/ACNet",
            shown_by=(r"^square_conv\.", r"^ver_conv\.", r"^hor_conv\."),
            checkpoint={
                rf"^{theirs}_{part}\.": f"{ours}.{part}."
                for theirs, ours in (("square", "square"), ("hor", "row"), ("ver", "column"))
                for part in ("conv", "bn")
            },
        ),
    },
    "dbb": {
        "authors": Source(
            "DingXiaoH/DiverseBranchBlock, whose first layer is a difference from the identity",
            shown_by=(r"^dbb_origin\.conv\.", r"^dbb_1x1_kxk\.(idconv1|conv1)\."),
            checkpoint={
                r"^dbb_origin\.": "square.",
                r"^dbb_1x1\.": "point.",
                r"^dbb_1x1_kxk\.(idconv1|conv1)\.": "before_square.conv.",
                r"^dbb_1x1_kxk\.bn1\.bn\.": "before_square.bn.",
                r"^dbb_1x1_kxk\.conv2\.": "then_square.conv.",
                r"^dbb_1x1_kxk\.bn2\.": "then_square.bn.",
                r"^dbb_avg\.conv\.": "before_average.conv.",
                r"^dbb_avg\.bn\.bn\.": "before_average.bn.",
                r"^dbb_avg\.avgbn\.": "average_norm.",
            },
            convert=_dbb,
        ),
    },
    "ecb": {
        "authors": Source(
            "xindongzhang/ECBSR as it is trained",
            shown_by=(r"^conv3x3\.weight$", r"^conv1x1_3x3\.k0$", r"^conv1x1_lpl\.mask$"),
            reads=lambda state: {
                "channels": state["conv3x3.weight"].shape[1],
                "out_channels": state["conv3x3.weight"].shape[0],
                "widen": state["conv1x1_3x3.k0"].shape[0] // state["conv3x3.weight"].shape[0],
            },
            checkpoint={
                r"^conv3x3\.": "plain.",
                r"^conv1x1_3x3\.k0$": "before.weight",
                r"^conv1x1_3x3\.b0$": "before.bias",
                r"^conv1x1_3x3\.k1$": "then.weight",
                r"^conv1x1_3x3\.b1$": "then.bias",
                **{rf"^conv1x1_{name}\.": f"edges.{i}." for i, name in enumerate(("sbx", "sby", "lpl"))},
                r"^(edges\.\d)\.k0$": r"\1.mix.weight",
                r"^(edges\.\d)\.b0$": r"\1.mix.bias",
                r"^(edges\.\d)\.bias$": r"\1.shift",
                r"^act\.": "activation.",
            },
            convert=_ecb,
        ),
    },
}
