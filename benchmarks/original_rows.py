"""Which module of External-Attention-pytorch each row is set against, and with which arguments: facts, no code.

Arguments follow each entry's preset ``readme``, so that both do the same work on the same shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Original:
    """A module over there.

    Attributes:
        name: of our entry.
        file: in the checkout, below ``model/``.
        builder: class, or function that gives the kernel of a re-parameterisation transform.
        arguments: positional arguments.
        keywords: named arguments.
        copies: how often the one input of ours is handed over (query, key and value of self-attention).
        switch: the method with which it collapses its own branches for deployment.
        ours: arguments of our preset to replace, where the original can do nothing else.
        fixed: its graph holds for the exported batch alone and is good for nothing else, so ours is set against it with
            that batch fixed; the free form is timed beside it.
        note: where it cannot do the same work, or had to be helped; why a row is not faster.
        other_work: it computes something else than the paper, with another amount of work: timed, not compared.
    """

    name: str
    file: str
    builder: str
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    copies: int = 1
    switch: str = ""
    ours: Mapping[str, Any] = field(default_factory=dict)
    fixed: bool = False
    note: str = ""
    other_work: bool = False


_ONE_BATCH = (
    "the original folds the batch into the groups of a convolution, so its graph holds for the exported batch alone;"
    " ours does so where the batch is fixed, and multiplies matrices where it is free"
)
_TWIN = "the original's own switch to one convolution is the reference"

ROWS: tuple[Original, ...] = (
    Original("external", "attention/ExternalAttention.py", "ExternalAttention", (512,), {"S": 8}),
    Original("self_attention", "attention/SelfAttention.py", "ScaledDotProductAttention", (512, 512, 512, 8)),
    Original(
        "simplified_self_attention",
        "attention/SimplifiedSelfAttention.py",
        "SimplifiedScaledDotProductAttention",
        (512, 8),
    ),
    Original("se", "attention/SEAttention.py", "SEAttention", (512, 8)),
    Original("sk", "attention/SKAttention.py", "SKAttention", (512,), {"reduction": 8}),
    Original("cbam", "attention/CBAM.py", "CBAMBlock", (512, 16, 7)),
    Original("bam", "attention/BAM.py", "BAMBlock", (512, 16, 2)),
    Original("eca", "attention/ECAAttention.py", "ECAAttention", (3,)),
    Original("danet", "attention/DANet.py", "DAModule", (512, 3, 7, 7)),
    Original("psa", "attention/PSA.py", "PSA", (512, 8)),
    Original("emsa", "attention/EMSA.py", "EMSA", (512, 512, 512, 8), {"H": 8, "W": 8, "ratio": 2}, copies=3),
    Original("shuffle_attention", "attention/ShuffleAttention.py", "ShuffleAttention", (512,), {"G": 8}),
    Original("muse", "attention/MUSEAttention.py", "MUSEAttention", (512, 512, 512, 8), copies=3),
    Original("sge", "attention/SGE.py", "SpatialGroupEnhance", (8,)),
    Original("a2", "attention/A2Atttention.py", "DoubleAttention", (512, 128, 128, True)),
    Original("aft_full", "attention/AFT.py", "AFT_FULL", (512, 49)),
    Original("aft_simple", "attention/AFT.py", "AFT_FULL", (512, 49, True)),
    Original("outlook", "attention/OutlookAttention.py", "OutlookAttention", (512,)),
    Original("vip", "attention/ViP.py", "WeightedPermuteMLP", (512, 8)),
    Original(
        "coatnet",
        "attention/CoAtNet.py",
        "CoAtNet",
        (3, 224),
        ours={"blocks": (2, 1, 1, 1, 1)},
        note="another network, with stride 16 instead of 32 and neither residuals nor relative positions; it has one"
        " block a stage, and so has ours here, where the paper has 2, 2, 3, 5, 2",
    ),
    Original("halo", "attention/HaloAttention.py", "HaloAttention", (), {"dim": 512, "block_size": 2, "halo_size": 1}),
    Original("polarized_sequential", "attention/PolarizedSelfAttention.py", "SequentialPolarizedSelfAttention", (512,)),
    Original("polarized_parallel", "attention/PolarizedSelfAttention.py", "ParallelPolarizedSelfAttention", (512,)),
    Original("cot", "attention/CoTAttention.py", "CoTAttention", (512, 3)),
    Original("residual_attention", "attention/ResidualAttention.py", "ResidualAttention", (512, 1000, 0.2)),
    Original("s2", "attention/S2Attention.py", "S2Attention", (512,)),
    Original("gfnet_filter", "attention/gfnet.py", "GlobalFilter", (384, 14, 8)),
    Original("gfnet", "attention/gfnet.py", "GFNet", (384, 224, 16, 4, 12, 1000)),
    Original("triplet", "attention/TripletAttention.py", "TripletAttention"),
    Original("coordatt", "attention/CoordAttention.py", "CoordAtt", (96, 96, 32)),
    Original("mobilevit_attention", "attention/MobileViTAttention.py", "MobileViTAttention"),
    Original("parnet", "attention/ParNetAttention.py", "ParNetAttention", (512,)),
    Original("ufo", "attention/UFOAttention.py", "UFOAttention", (512, 512, 512, 8)),
    Original("acmix", "attention/ACmixAttention.py", "ACmix", (256, 256)),
    Original("mobilevitv2", "attention/MobileViTv2Attention.py", "MobileViTv2Attention", (512,)),
    Original(
        "dat",
        "attention/DAT.py",
        "DAT",
        (),
        {
            "img_size": 224,
            "num_classes": 1000,
            "dim_stem": 96,
            "dims": [96, 192, 384, 768],
            "depths": [2, 2, 6, 2],
            "stage_spec": [["L", "S"], ["L", "S"], ["L", "D", "L", "D", "L", "D"], ["L", "D"]],
            "heads": [3, 6, 12, 24],
            "window_sizes": [7, 7, 7, 7],
            "groups": [-1, -1, 3, 6],
            "use_pes": [False, False, True, True],
            "dwc_pes": [False] * 4,
            "strides": [-1, -1, 1, 1],
            "sr_ratios": [-1, -1, -1, -1],
            "offset_range_factor": [-1, -1, 2, 2],
            "no_offs": [False] * 4,
            "fixed_pes": [False] * 4,
            "use_dwc_mlps": [False] * 4,
            "use_conv_patches": False,
        },
        note="the original gives a tuple; its first item is taken",
    ),
    Original(
        "crossformer",
        "attention/Crossformer.py",
        "CrossFormer",
        (),
        {
            "img_size": 224,
            "patch_size": [4, 8, 16, 32],
            "embed_dim": 48,
            "depths": [2, 2, 6, 2],
            "num_heads": [3, 6, 12, 24],
            "group_size": [7, 7, 7, 7],
            "merge_size": [[2, 4], [2, 4], [2, 4]],
        },
    ),
    Original(
        "moa",
        "attention/MOATransformer.py",
        "MOATransformer",
        (),
        {"img_size": 224, "embed_dim": 96, "depths": [2, 2, 6], "num_heads": [3, 6, 12], "window_size": 14},
    ),
    Original("criss_cross", "attention/CrissCrossAttention.py", "CrissCrossAttention", (64,)),
    Original(
        "axial_attention",
        "attention/Axial_attention.py",
        "AxialAttention",
        (),
        {"dim": 128, "heads": 8, "dim_index": 1},
    ),
    Original(
        "axial_image_transformer",
        "attention/Axial_attention.py",
        "AxialImageTransformer",
        (),
        {"dim": 128, "depth": 12, "axial_pos_emb_shape": (14, 14)},
    ),
    Original("simam", "attention/SimAM.py", "SimAM", (64,)),
    Original(
        "repmlp",
        "mlp/repmlp.py",
        "RepMLP",
        (512, 1024, 14, 14, 7, 7, 1, 8, [1, 3, 5, 7]),
        switch="switch_to_deploy",
        note="the original's own switch, which merges its convolutions into the dense layer, is the reference; both"
        " files have a matrix of 1.6e8 numbers, 638 MB",
    ),
    Original("mlp_mixer", "mlp/mlp_mixer.py", "MlpMixer", (1000, 10, 10, 32, 1024, 16, 1024)),
    Original(
        "resmlp",
        "mlp/resmlp.py",
        "ResMLP",
        (128, 14, 7),
        note="the original mixes no patches: it registers both halves of a layer under one name, and the first is lost;"
        " ours does that work as well",
        other_work=True,
    ),
    Original("gmlp", "mlp/g_mlp.py", "gMLP", (10000, 49, 512, 1024)),
    Original("smlp", "mlp/sMLP_block.py", "sMLPBlock", (224, 224)),
    Original(
        "vip_mlp",
        "mlp/vip-mlp.py",
        "VisionPermutator",
        ([4, 3, 8, 3],),
        {
            "embed_dims": [384] * 4,
            "patch_size": 14,
            "transitions": [False] * 4,
            "segment_dim": [16] * 4,
            "mlp_ratios": [3] * 4,
            "mlp_fn": "WeightedPermuteMLP",
        },
    ),
    Original("depthwise_separable", "conv/DepthwiseSeparableConvolution.py", "DepthwiseSeparableConvolution", (3, 64)),
    Original(
        "mbconv",
        "conv/MBConv.py",
        "MBConvBlock",
        (3, 3, 512),
        {"image_size": 112},
        note="nearly all of the time is the last convolution, 3 to 512 channels, and the runtime's change of layout"
        " behind it: both graphs have it, and neither has an Expand",
    ),
    Original("involution", "conv/Involution.py", "Involution", (3, 4, 2)),
    Original(
        *("dynamic_conv", "conv/DynamicConv.py", "DynamicConv", (32, 64, 3, 1, 1), {"bias": False}),
        fixed=True,
        note=_ONE_BATCH,
    ),
    Original(
        *("cond_conv", "conv/CondConv.py", "CondConv", (32, 64, 3, 1, 1), {"bias": False}),
        fixed=True,
        note=_ONE_BATCH,
    ),
    Original("gnconv", "conv/HorNet.py", "gnconv", (64, 5), {"s": 1 / 3}),
    Original("hornet", "conv/HorNet.py", "HorNet", (), {"depths": [2, 3, 18, 2], "base_dim": 64}),
    Original("repvgg", "rep/repvgg.py", "RepBlock", (512, 512), switch="_switch_to_deploy", note=_TWIN),
    Original("acnet", "rep/acnet.py", "ACNet", (512, 512), switch="_switch_to_deploy", note=_TWIN),
    Original("dbb_transform_1", "rep/ddb.py", "transI_conv_bn", note=_TWIN),
    Original("dbb_transform_2", "rep/ddb.py", "transII_conv_branch", note=_TWIN),
    Original("dbb_transform_3", "rep/ddb.py", "transIII_conv_sequential", note=_TWIN),
    Original("dbb_transform_4", "rep/ddb.py", "transIV_conv_concat", note=_TWIN),
    Original("dbb_transform_5", "rep/ddb.py", "transV_avg", note=_TWIN),
    Original("dbb_transform_6", "rep/ddb.py", "transVI_conv_scale", ours={"kernel": 3}, note=_TWIN),
)

#: Rows of these families that have no module over there.
WITHOUT = ("dbb", "mobileone")

#: Whole backbones: a later issue.
LATER = (
    *("resnet_bottleneck", "resnext_bottleneck", "mobilevit", "convmixer", "shuffle_transformer", "contnet", "hatnet"),
    *("coat", "pvt", "cpvt", "pit", "crossvit", "tnt", "deepvit", "ceit", "convit", "cait", "patchconvnet"),
    *("deit_distilled", "levit", "volo", "container", "cmt", "efficientformer", "convnextv2"),
)
