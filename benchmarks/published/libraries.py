"""Modules of timm and of PyTorch itself."""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from benchmarks.published.pair import Pair

MAP = (2, 32, 9, 7)


def timm(module: str, name: str, *given: Any, layers: Any = None, **named: Any) -> Callable[[], nn.Module]:
    """Build a class of timm's by the module that it lies in; ``layers`` makes what such an argument takes."""

    def make() -> nn.Module:
        if layers:
            named["layers"] = layers()
        made: nn.Module = getattr(importlib.import_module(f"timm.{module}"), name)(*given, **named)
        return made

    return make


def _torchvision() -> nn.Module:
    made: nn.Module = importlib.import_module("torchvision.ops").SqueezeExcitation(32, 8)
    return made


def _resmlp() -> nn.Module:
    mixer = importlib.import_module("timm.models.mlp_mixer")
    made: nn.Module = mixer.MlpMixer(
        img_size=16,
        patch_size=4,
        num_blocks=2,
        embed_dim=12,
        num_classes=5,
        block_layer=mixer.ResBlock,
        norm_layer=mixer.Affine,
        mlp_ratio=4,
    )
    return made


def _gmlp() -> nn.Module:
    mixer = importlib.import_module("timm.models.mlp_mixer")
    whole = mixer.MlpMixer(
        img_size=16,
        patch_size=4,
        num_blocks=2,
        embed_dim=12,
        num_classes=5,
        block_layer=mixer.SpatialGatingBlock,
        mlp_layer=mixer.GatedMlp,
        mlp_ratio=4,
    )
    return nn.Sequential(OrderedDict(blocks=whole.blocks, norm=whole.norm))


def _silu() -> Any:
    byobnet = importlib.import_module("timm.models.byobnet")
    return byobnet.get_layer_fns(byobnet.ByoModelCfg(blocks=(), act_layer="silu"))


def _silu_gate(channels: int, **named: Any) -> nn.Module:
    made: nn.Module = importlib.import_module("timm.models._efficientnet_blocks").SqueezeExcite(
        channels, rd_ratio=1 / 16, **{**named, "act_layer": nn.SiLU}
    )
    return made


def _mobileone(size: str) -> nn.Module:
    byobnet = importlib.import_module("timm.models.byobnet")
    cfg = byobnet.model_cfgs[f"mobileone_{size}"]
    width, stages = 8, []
    for stage, wider in zip(cfg.blocks, (8, 16, 128, 128), strict=True):  # timm's gates are at least 8 wide
        pairs = [*stage[:2], *stage[-2:]]  # depth-wise and point-wise by turns; gates are at the end
        stages.append([replace(one, c=wider if i else width) for i, one in enumerate(pairs)])
        width = wider
    made: nn.Module = byobnet.ByobNet(replace(cfg, blocks=stages, stem_chs=8), num_classes=5)
    return made


PAIRS = (
    Pair("se", "timm", "layers.SEModule", timm("layers", "SEModule", 32), (MAP,), asked="timm"),
    Pair(
        "se",
        "efficientnet",
        "SqueezeExcite with SiLU",
        timm("models._efficientnet_blocks", "SqueezeExcite", 32, act_layer=nn.SiLU),
        (MAP,),
        asked="efficientnet",
    ),
    Pair(
        "se",
        "mobilenetv3",
        "SqueezeExcite with a hard sigmoid",
        timm("models._efficientnet_blocks", "SqueezeExcite", 32, gate_layer=nn.Hardsigmoid),
        (MAP,),
        asked="mobilenetv3",
    ),
    Pair("se", "timm", "torchvision's SqueezeExcitation", _torchvision, (MAP,), asked="timm"),
    *(
        Pair(
            "repvit_block",
            "authors",
            f"timm's RepViTBlock(use_se={gate})",
            timm("models.repvit", "RepViTBlock", 48, 2, 3, gate, nn.GELU),
            ((2, 48, 8, 6),),
        )
        for gate in (True, False)
    ),
    Pair("cbam", "timm", "layers.CbamModule", timm("layers.cbam", "CbamModule", 32), (MAP,)),
    Pair(
        "sk",
        "timm",
        "layers.SelectiveKernel(split_input=False)",
        timm("layers.selective_kernel", "SelectiveKernel", 32, 32, groups=4, split_input=False),
        (MAP,),
        asked="timm",
    ),
    *(
        Pair(
            "gc",
            "timm",
            f"layers.GlobalContext(fuse_add={add}, fuse_scale={scale}, use_attn={use})",
            timm("layers.global_context", "GlobalContext", 32, fuse_add=add, fuse_scale=scale, use_attn=use),
            (MAP,),
        )
        for add, scale, use in ((True, True, True), (True, False, True), (False, True, False))
    ),
    Pair(
        "self_attention",
        "torch",
        "nn.MultiheadAttention",
        lambda: nn.MultiheadAttention(32, 4, batch_first=True),
        ((2, 5, 32), (2, 7, 32), (2, 7, 32)),
        {"heads": 4},
        call=lambda module, *inputs: module(*inputs)[0],
    ),
    Pair("non_local", "timm", "layers.NonLocalAttn", timm("layers.non_local_attn", "NonLocalAttn", 32), (MAP,)),
    Pair(
        "xca",
        "authors",
        "timm's XCA",
        timm("models.xcit", "XCA", 32, num_heads=4, qkv_bias=True),
        ((2, 7, 32),),
    ),
    *(
        Pair(
            "focal_modulation",
            ("timm" if post else "authors") if not normal else ("timm-normalised" if post else "normalised"),
            f"timm's FocalModulation(use_post_norm={post}, normalize_modulator={normal})",
            timm("models.focalnet", "FocalModulation", 16, 3, 2, use_post_norm=post, normalize_modulator=normal),
            ((2, 6, 7, 16),),
            asked=("timm" if post else "authors") if not normal else ("timm-normalised" if post else "normalised"),
            call=lambda module, x: module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1),
        )
        for post in (False, True)
        for normal in (False, True)
    ),
    Pair(
        "lambda_layer",
        "timm",
        "layers.LambdaLayer(r=5)",
        timm("layers.lambda_layer", "LambdaLayer", 32, r=5),
        (MAP,),
    ),
    *(
        Pair(
            "botnet_mhsa",
            name,
            f"layers.BottleneckAttn(scale_pos_embed={scaled})",
            timm("layers.bottleneck_attn", "BottleneckAttn", 16, feat_size=(4, 5), scale_pos_embed=scaled),
            ((2, 16, 4, 5),),
            asked=asked,
        )
        for name, scaled, asked in (("timm", False, None), ("timm-scaled", True, "timm-scaled"))
    ),
    Pair(
        "sdta",
        "timm",
        "EdgeNeXt's SplitTransposeBlock",
        timm("models.edgenext", "SplitTransposeBlock", 16, num_scales=2, num_heads=4, use_pos_emb=False),
        ((2, 16, 6, 5),),
    ),
    Pair(
        "sdta",
        "timm",
        "EdgeNeXt's SplitTransposeBlock with positions",
        timm("models.edgenext", "SplitTransposeBlock", 16, num_scales=3, num_heads=4),
        ((2, 16, 4, 5),),
        {"splits": 3, "size": (4, 5)},
        narrow="its positions are computed in float32",
    ),
    Pair(
        "mobilevit_attention",
        "timm",
        "MobileVitBlock",
        timm(
            "models.mobilevit",
            "MobileVitBlock",
            8,
            8,
            mlp_ratio=2,
            transformer_dim=16,
            transformer_depth=2,
            patch_size=2,
            layers=_silu,
        ),
        ((2, 8, 6, 8),),
        {"heads": 4, "patch": 2},
    ),
    Pair(
        "mobilevitv2",
        "timm",
        "LinearSelfAttention",
        timm("models.mobilevit", "LinearSelfAttention", 16),
        ((2, 7, 16),),
        call=lambda module, x: module(x.transpose(1, 2).unsqueeze(2)).squeeze(2).transpose(1, 2),
    ),
    Pair(
        "relu_linear",
        "authors",
        "timm's LiteMLA",
        timm("models.efficientvit_mit", "LiteMLA", 16, 16, dim=4, eps=1e-15),
        ((2, 16, 6, 5),),
        {"d_head": 4},
        narrow="it attends in float32",
    ),
    Pair(
        "mlp_mixer",
        "timm",
        "MlpMixer",
        timm("models.mlp_mixer", "MlpMixer", img_size=16, patch_size=4, num_blocks=2, embed_dim=12, num_classes=5),
        ((2, 3, 16, 16),),
    ),
    Pair("resmlp", "timm", "MlpMixer of ResBlocks", _resmlp, ((2, 3, 16, 16),)),
    Pair(
        "mixconv",
        "timm",
        "layers.MixedConv2d",
        timm("layers.mixed_conv2d", "MixedConv2d", 16, 16, [3, 5, 7], depthwise=True),
        ((2, 16, 9, 7),),
    ),
    *(
        Pair(
            "mbconv",
            name,
            f"InvertedResidual(eps={eps})",
            timm(
                "models._efficientnet_blocks",
                "InvertedResidual",
                16,
                16,
                exp_ratio=4,
                act_layer=nn.SiLU,
                se_layer=_silu_gate,
                norm_layer=partial(nn.BatchNorm2d, eps=eps),
            ),
            ((2, 16, 9, 7),),
            asked=name,
        )
        for name, eps in (("timm", 1e-5), ("timm-tf", 1e-3))
    ),
    *(
        Pair(
            "uib",
            "timm",
            f"UniversalInvertedResidual({start}, {mid}, layer scale {scale})",
            timm(
                "models._efficientnet_blocks",
                "UniversalInvertedResidual",
                16,
                16,
                start,
                mid,
                exp_ratio=4.0,
                layer_scale_init_value=scale,
            ),
            ((2, 16, 9, 7),),
        )
        for start, mid, scale in ((3, 3, None), (0, 5, 0.5))
    ),
    Pair(
        "ghost",
        "authors",
        "timm's GhostModule",
        timm("models.ghostnet", "GhostModule", 16, 24),
        ((2, 16, 9, 7),),
        {"out_channels": 24},
    ),
    Pair(
        "inception_dw",
        "authors",
        "timm's InceptionDWConv2d",
        timm("models.inception_next", "InceptionDWConv2d", 16),
        ((2, 16, 9, 7),),
        {"channels": 16},
    ),
    Pair("repmixer", "authors", "timm's RepMixer", timm("models.fastvit", "RepMixer", 16, 3), ((2, 16, 9, 7),)),
    *(
        Pair(
            "mobileone",
            "timm",
            f"a MobileOne as mobileone_{size}, narrow",
            partial(_mobileone, size),
            ((2, 3, 64, 64),),
        )
        for size in ("s0", "s4")
    ),
    *(
        Pair(
            "repghost",
            "authors",
            f"timm's RepGhostBottleneck(stride={stride}, se_ratio={ratio})",
            timm("models.repghost", "RepGhostBottleneck", 16, 12, 24, stride=stride, se_ratio=ratio),
            ((2, 16, 9, 7),),
            {"stride": stride},
        )
        for stride, ratio in ((1, 0.0), (2, 0.25))
    ),
    Pair(
        "gmlp",
        "timm",
        "MlpMixer of SpatialGatingBlocks, its blocks and norm",
        _gmlp,
        ((2, 16, 12),),
    ),
)
