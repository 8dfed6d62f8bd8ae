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
    "fastvit timm": {
        "stem.1.conv_scale.bn.bias": "stem.1.point.bn.bias",
        "stages.0.blocks.1.token_mixer.mixer.conv_kxk.0.conv.weight": "stages.0.1.mixer.dense.conv.weight",
        "stages.1.blocks.0.token_mixer.norm.identity.bias": "stages.1.1.mixer.norm.bias",
        "stages.1.downsample.proj.0.small_conv.bn.bias": "stages.1.0.small.bn.bias",
        "stages.2.downsample.proj.1.identity.weight": "stages.2.0.mix.identity.weight",
        "stages.3.blocks.0.mlp.conv.bn.weight": "stages.3.1.mlp.0.bn.weight",
        "final_conv.se.fc1.weight": "last.gate.conv_reduce.weight",
        "head.fc.weight": "head.weight",
    },
    "fastvit authors": {
        "patch_embed.1.rbr_scale.bn.bias": "stem.1.point.bn.bias",
        "network.0.1.token_mixer.mixer.rbr_conv.0.conv.weight": "stages.0.1.mixer.dense.conv.weight",
        "network.2.0.token_mixer.mixer.rbr_skip.weight": "stages.1.1.mixer.identity.weight",
        "network.2.0.token_mixer.norm.rbr_skip.bias": "stages.1.1.mixer.norm.bias",
        "network.2.0.token_mixer.layer_scale": "stages.1.1.mixer.gamma",
        "network.2.0.layer_scale": "stages.1.1.gamma",
        "network.1.proj.0.lkb_origin.bn.bias": "stages.1.0.large.bn.bias",
        "network.3.proj.1.rbr_conv.0.bn.weight": "stages.2.0.mix.branches.0.bn.weight",
        "network.6.0.convffn.fc2.weight": "stages.3.1.mlp.3.weight",
        "conv_exp.se.expand.bias": "last.gate.conv_expand.bias",
        "head.weight": "head.weight",
    },
    "repvit timm": {
        "stem.conv2.c.weight": "stem.2.conv.weight",
        "stages.0.blocks.1.token_mixer.conv1.bias": "blocks.1.filter.point.bias",
        "stages.0.blocks.0.se.fc2.bias": "blocks.0.gate.excite.bias",
        "stages.1.downsample.pre_block.token_mixer.conv.c.weight": "blocks.2.filter.dense.conv.weight",
        "stages.1.downsample.spatial_downsample.bn.weight": "blocks.3.filter.bn.weight",
        "stages.1.downsample.ffn.conv1.bn.bias": "blocks.3.widen.bn.bias",
        "stages.1.blocks.0.channel_mixer.conv2.c.weight": "blocks.4.narrow.conv.weight",
        "head.head_dist.bn.bias": "head_dist.0.bias",
    },
    "repvit authors": {
        "features.0.2.c.weight": "stem.2.conv.weight",
        "features.2.token_mixer.0.conv1.bias": "blocks.1.filter.point.bias",
        "features.1.token_mixer.1.fc2.bias": "blocks.0.gate.excite.bias",
        "features.3.token_mixer.0.bn.weight": "blocks.2.filter.norm.weight",
        "features.4.token_mixer.0.bn.weight": "blocks.3.filter.bn.weight",
        "features.4.token_mixer.2.c.weight": "blocks.3.mix.conv.weight",
        "features.4.channel_mixer.m.0.bn.bias": "blocks.3.widen.bn.bias",
        "classifier.classifier_dist.l.weight": "head_dist.1.weight",
    },
    "mobilenetv4 timm": {
        "blocks.0.1.bn1.bias": "blocks.0.1.0.bn.bias",
        "blocks.2.0.dw_mid.conv.weight": "blocks.2.0.middle.conv.weight",
        "norm_head.bias": "head.bn.bias",
    },
    "starnet timm": {"stages.1.2.f1.conv.bias": "stages.1.2.f1.bias", "stages.0.1.g.bn.bias": "stages.0.1.g.bn.bias"},
    "efficientvit timm": {
        "stages.2.blocks.1.context_module.main.proj.conv.weight": "stages.2.1.attention.project.conv.weight",
        "stages.2.blocks.1.local_module.main.inverted_conv.conv.bias": "stages.2.1.local.expand.0.bias",
        "stages.0.blocks.1.main.point_conv.norm.weight": "stages.0.1.project.1.weight",
        "head.classifier.4.weight": "head.3.weight",
    },
    "ghostnetv2 timm": {
        "blocks.1.0.shortcut.1.weight": "blocks.1.0.shortcut.0.bn.weight",
        "blocks.1.0.ghost1.short_conv.4.weight": "blocks.1.0.first.attention.2.conv.weight",
        "blocks.9.0.bn1.bias": "last.0.bn.bias",
    },
    "repghostnet timm": {
        "blocks.1.0.shortcut.2.weight": "blocks.1.0.shortcut.1.conv.weight",
        "blocks.3.0.ghost2.fusion_bn.0.bias": "blocks.3.0.second.identity.bias",
        "blocks.3.0.bn_dw.bias": "blocks.3.0.shrink.bn.bias",
    },
    "mobilevit timm": {
        "stages.2.1.conv_fusion.bn.weight": "stages.2.1.fuse.1.weight",
        "stages.2.1.transformer.0.attn.qkv.bias": "stages.2.1.transformer.layers.0.qkv.bias",
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
