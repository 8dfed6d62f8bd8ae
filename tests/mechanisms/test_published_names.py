"""Names of published weights, as timm and the authors have them, become ours; shapes follow where they differ."""

from __future__ import annotations

import pytest
import torch

from attn_export.export.weights import checkpoint
from attn_export.mechanisms import MECHANISMS

#: By entry and source: names there and here. Logits are compared with timm's by benchmarks.published_weights.
NAMES: dict[str, dict[str, str]] = {
    "swin timm": {
        "layers.0.blocks.1.attn.qkv.weight": "stages.0.1.attention.qkv.weight",
        "layers.1.downsample.reduction.weight": "between.0.reduction.weight",
        "layers.3.downsample.norm.bias": "between.2.norm.bias",
        "head.fc.weight": "head.weight",
    },
    "swin authors": {
        "layers.0.downsample.norm.bias": "between.0.norm.bias",
        "layers.2.downsample.norm.bias": "between.2.norm.bias",
        "head.weight": "head.weight",
    },
    "pit timm": {
        "transformers.1.pool.conv.weight": "pools.0.conv.weight",
        "transformers.2.blocks.0.mlp.fc2.bias": "stages.2.0.mlp.2.bias",
    },
    "pit authors": {"pools.1.fc.bias": "pools.1.fc.bias", "patch_embed.conv.weight": "embed.weight"},
    "convnextv2 timm": {
        "stem.0.weight": "downsample_layers.0.0.weight",
        "stages.1.downsample.1.bias": "downsample_layers.1.1.bias",
        "stages.2.blocks.3.conv_dw.weight": "stages.2.3.dwconv.weight",
        "stages.0.blocks.0.mlp.fc1.weight": "stages.0.0.pwconv1.weight",
        "stages.0.blocks.0.mlp.grn.weight": "stages.0.0.grn.gamma",
        "head.norm.weight": "norm.weight",
        "head.fc.bias": "head.bias",
    },
    "convmixer timm": {
        "stem.2.running_mean": "stem.2.running_mean",
        "blocks.3.0.fn.0.weight": "blocks.3.places.0.weight",
        "blocks.3.1.bias": "blocks.3.channels.0.bias",
        "blocks.3.3.weight": "blocks.3.channels.2.weight",
        "head.weight": "head.weight",
    },
    "mobilenetv3 timm": {
        "conv_stem.weight": "stem.0.weight",
        "bn1.bias": "stem.1.bias",
        "blocks.0.0.conv_pw.weight": "blocks.0.project.0.weight",
        "blocks.1.0.conv_pwl.weight": "blocks.1.project.0.weight",
        "blocks.1.0.conv_pw.weight": "blocks.1.expand.0.weight",
        "blocks.1.1.se.conv_reduce.bias": "blocks.2.gate.conv_reduce.bias",
        "blocks.2.0.conv.weight": "last.0.weight",
        "blocks.2.0.bn1.weight": "last.1.weight",
    },
    "deit timm": {
        "patch_embed.proj.weight": "embed.weight",
        "blocks.1.attn.proj.weight": "blocks.1.attention.proj.weight",
        "blocks.1.mlp.fc1.bias": "blocks.1.mlp.0.bias",
        "dist_token": "dist_token",
    },
    "convit timm": {
        "blocks.0.attn.gating_param": "local.0.attention.gating_param",
        "blocks.1.attn.gating_param": "local.1.attention.gating_param",
        "blocks.1.norm1.weight": "local.1.norm1.weight",
        "blocks.2.attn.qkv.weight": "blocks.0.attention.qkv.weight",
    },
    "levit timm": {
        "stem.conv2.linear.weight": "stem.2.conv.weight",
        "stages.1.blocks.0.attn.qkv.bn.bias": "blocks.4.m.qkv.bn.bias",
        "stages.0.blocks.0.attn.attention_biases": "blocks.0.m.bias.table",
        "stages.0.blocks.0.mlp.ln2.linear.weight": "blocks.1.m.2.linear.weight",
        "stages.1.downsample.attn_downsample.q.ln.linear.weight": "blocks.2.q.linear.weight",
        "stages.1.downsample.mlp.ln1.bn.weight": "blocks.3.m.0.bn.weight",
        "head_dist.linear.weight": "head_dist.1.weight",
    },
    "efficientformer timm": {
        "stem.norm2.weight": "stem.4.weight",
        "stages.1.downsample.conv.weight": "maps.1.0.weight",
        "stages.1.downsample.norm.bias": "maps.1.1.bias",
        "stages.2.blocks.5.ls2.gamma": "maps.4.5.gamma_2",
        "stages.0.blocks.1.mlp.norm1.weight": "maps.0.1.mlp.1.weight",
        "stages.0.blocks.1.mlp.fc2.bias": "maps.0.1.mlp.3.bias",
        "stages.3.blocks.4.token_mixer.qkv.weight": "tokens.0.attention.qkv.weight",
        "stages.3.blocks.4.mlp.fc2.bias": "tokens.0.mlp.2.bias",
        "head_dist.weight": "dist_head.weight",
    },
    "cait timm": {
        "blocks_token_only.1.attn.q.weight": "class_blocks.1.attention.q.weight",
        "blocks.0.gamma_2": "blocks.0.gamma_2",
    },
}


@pytest.mark.parametrize("case", NAMES)
def test_a_published_name_becomes_ours(case: str) -> None:
    names = NAMES[case]
    state = {there: torch.full((3,), float(i)) for i, there in enumerate(names)}
    renamed = checkpoint.rename(state, MECHANISMS[case.split()[0]])
    assert {here: float(value.flatten()[0]) for here, value in renamed.items()} == {
        here: float(i) for i, here in enumerate(names.values())
    }


def test_what_timm_keeps_as_one_axis_gets_its_four() -> None:
    renamed = checkpoint.rename({"stages.0.blocks.0.mlp.grn.bias": torch.ones(5)}, MECHANISMS["convnextv2"])
    assert renamed["stages.0.0.grn.beta"].shape == (1, 1, 1, 5)
