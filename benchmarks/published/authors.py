"""Modules of the authors' repositories, which are read where a checkout of them is given and never kept here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.published.pair import Pair

MAP = (2, 32, 9, 7)
#: Where the checkouts lie, a folder ``owner+name`` each.
FOLDER: Path | None = None


def load(
    repository: str,
    file: str,
    *,
    instead: Mapping[str, str] | None = None,
    absent: Mapping[str, Mapping[str, Any]] | None = None,
    **beforehand: Any,
) -> ModuleType:
    """Run a file of a checkout; ``beforehand`` are names that it uses and does not define.

    ``instead`` replaces text of the file, and ``absent`` gives modules that are not installed.
    """
    if FOLDER is None:
        raise FileNotFoundError(f"{repository} is needed: give the folder of the checkouts with --authors")
    path = FOLDER / repository / file
    folders = [str(path.parent), str(FOLDER / repository)]
    for name in [n for n in sys.modules if n.split(".")[0] in ("models", "modules", "model")]:
        del sys.modules[name]
    parts = Path(file).with_suffix("").parts
    name = ".".join(parts) if (path.parent / "__init__.py").exists() else parts[-1] + "_of_the_authors"
    sys.path[:0] = folders
    for i in range(1, name.count(".") + 1):  # packages around it, without what their __init__ would import
        package = ModuleType(".".join(parts[:i]))
        package.__path__ = [str(FOLDER.joinpath(repository, *parts[:i]))]
        sys.modules[package.__name__] = package
    for missing, contents in (absent or {}).items():
        stand_in = ModuleType(missing)
        vars(stand_in).update({"__path__": [], **contents})
        sys.modules[missing] = stand_in
    try:
        module = ModuleType(name)
        vars(module).update({"__file__": str(path), "__package__": name.rpartition(".")[0], **beforehand})
        sys.modules[name] = module
        text = path.read_text(encoding="utf-8")
        for old, new in (instead or {}).items():
            assert old in text, f"{path} no longer has {old!r}"
            text = text.replace(old, new)
        exec(compile(text, str(path), "exec"), vars(module))  # noqa: S102  # a checkout that the user gave
    finally:
        del sys.path[: len(folders)]
    return module


def of(
    repository: str, file: str, name: str, *given: Any, before: dict[str, Any] | None = None, **named: Any
) -> Callable[[], nn.Module]:
    """Build a class of a repository."""

    def make() -> nn.Module:
        made: nn.Module = getattr(load(repository, file, **(before or {})), name)(*given, **named)
        return made

    return make


def _init(*_: Any, **__: Any) -> None:
    """Stand for an initialiser whose numbers are overwritten."""


_MMCV = {"absent": {"mmcv": {}, "mmcv.cnn": {"constant_init": _init, "kaiming_init": _init}}}


class _ConvModule(nn.Sequential):
    """What mmcv makes of these arguments: a convolution, a batch norm where one is asked for, and ReLU."""

    def __init__(self, norm_cfg: Any = None, act_cfg: Any = None, **named: Any) -> None:
        super().__init__()
        named.pop("conv_cfg", None)
        self.conv = nn.Conv2d(**named, bias=norm_cfg is None)
        if norm_cfg:
            self.bn = nn.BatchNorm2d(named["out_channels"])
        if act_cfg:
            self.activate = nn.ReLU()


def _mobileone_block() -> nn.Module:
    file = load("apple+ml-mobileone", "mobileone.py")
    return nn.Sequential(
        file.MobileOneBlock(16, 16, 3, padding=1, groups=16, num_conv_branches=2),
        file.MobileOneBlock(16, 24, 1, num_conv_branches=2),
    )


def _relu(module: nn.Module, x: Tensor) -> Tensor:
    """Run what has its ReLU outside of it."""
    return torch.relu(module(x))


class _Both(nn.Module):
    """DANet's two attentions as its head has them, whose outputs are added."""

    def __init__(self) -> None:
        super().__init__()
        file = load("junfu1115+DANet", "encoding/nn/da_att.py")
        self.sa, self.sc = file.PAM_Module(32), file.CAM_Module(32)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.sa(x) + self.sc(x)
        return y


PAIRS = (
    Pair(
        "cbam",
        "authors",
        "attention-module CBAM",
        of("Jongchan+attention-module", "MODELS/cbam.py", "CBAM", 32),
        (MAP,),
    ),
    Pair(
        "bam",
        "authors",
        "attention-module BAM",
        of("Jongchan+attention-module", "MODELS/bam.py", "BAM", 32, before={"gate_activation": None}),
        ((2, 32, 9, 9),),  # its channel gate pools squares
    ),
    Pair(
        "psa",
        "authors",
        "EPSANet PSAModule",
        of("murufeng+EPSANet", "models/epsanet.py", "PSAModule", 64, 64),
        ((2, 64, 9, 7),),
    ),
    *(
        Pair(
            "gc",
            "authors",
            f"GCNet ContextBlock({pool}, {'+'.join(fusion)})",
            of(
                "xvjiarui+GCNet",
                "mmdet/ops/gcb/context_block.py",
                "ContextBlock",
                32,
                1 / 4,
                pool,
                fusion,
                before=_MMCV,
            ),
            (MAP,),
        )
        for pool, fusion in (("att", ("channel_add", "channel_mul")), ("avg", ("channel_mul",)))
    ),
    Pair("nam", "authors", "NAM Att", of("Christian-lyc+NAM", "MODELS/attention.py", "Att", 32, None), (MAP,)),
    Pair(
        "ema",
        "authors",
        "EMA",
        of("YOLOonMe+EMA-attention-module", "ema.py", "EMA", 16, factor=4),
        ((2, 16, 6, 5),),
        {"channels": 16, "groups": 4},
    ),
    Pair("danet", "authors", "PAM_Module and CAM_Module", _Both, (MAP,)),
    *(
        Pair(
            "emsa",
            "authors",
            f"ResT's Attention(sr_ratio={ratio}, apply_transform={mixed})",
            of("wofmanaf+ResT", "models/rest.py", "Attention", 32, 4, True, sr_ratio=ratio, apply_transform=mixed),
            ((2, 48, 32),),
            {"heads": 4, "height": 8, "width": 6},
            call=lambda module, x: module(x, 8, 6),
        )
        for ratio, mixed in ((2, True), (1, True), (2, False))
    ),
    Pair(
        "vip",
        "authors",
        "WeightedPermuteMLP",
        of("houqb+VisionPermutator", "models/vip.py", "WeightedPermuteMLP", 32, 8),
        ((2, 8, 8, 32),),
        {"segments": 8},
    ),
    Pair(
        "lka",
        "authors",
        "LKA",
        of("Visual-Attention-Network+VAN-Classification", "models/van.py", "LKA", 8),
        ((2, 8, 11, 12),),
        {"channels": 8},
    ),
    Pair(
        "lka",
        "authors",
        "Attention",
        of("Visual-Attention-Network+VAN-Classification", "models/van.py", "Attention", 8),
        ((2, 8, 11, 12),),
        {"channels": 8},
    ),
    *(
        Pair(
            "lska",
            "authors",
            f"LSKA({side})",
            of("StevenLauHKHK+Large-Separable-Kernel-Attention", "models/van.py", "LSKA", 8, side),
            ((2, 8, 11, 12),),
            {"channels": 8, "kernel_size": side, "dilation": dilation},
        )
        for side, dilation in ((7, 2), (23, 3))
    ),
    Pair("xca", "authors", "XCA", of("facebookresearch+xcit", "xcit.py", "XCA", 32, 4), ((2, 7, 32),)),
    Pair(
        "focal_modulation",
        "authors",
        "FocalModulation",
        of(
            "microsoft+FocalNet",
            "classification/focalnet.py",
            "FocalModulation",
            16,
            3,
            2,
            use_postln_in_modulation=True,
        ),
        ((2, 6, 7, 16),),
        asked="authors",
    ),
    Pair(
        "gfnet",
        "authors",
        "GFNet",
        of(
            "raoyongming+GFNet",
            "gfnet.py",
            "GFNet",
            16,
            4,
            embed_dim=12,
            depth=2,
            num_classes=5,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            before={"instead": {"x = x.to(torch.float32)": "pass", "from numpy.lib.arraypad import pad": ""}},
        ),
        ((2, 3, 16, 16),),
    ),
    *(
        Pair(
            "residual_attention",
            name,
            f"CSRA(T={t})",
            of("Kevinz-code+CSRA", "pipeline/csra.py", "CSRA", 32, 20, t, 0.2),
            (MAP,),
            {"la": 0.2},
            asked=name,
        )
        for name, t in (("maximum", 99), ("softmax", 1))
    ),
    Pair(
        "involution",
        "authors",
        "involution",
        of(
            "d-li14+involution",
            "cls/mmcls/models/utils/involution_naive.py",
            "involution",
            32,
            3,
            1,
            before={"absent": {"mmcv": {}, "mmcv.cnn": {"ConvModule": _ConvModule}}},
        ),
        (MAP,),
        {"groups": 2},
    ),
    *(
        Pair(
            "odconv",
            "authors",
            f"ODConv2d(kernel_num={experts}, groups={groups})",
            of(
                "OSVAI+ODConv", "modules/odconv.py", "ODConv2d", 16, 24, 3, padding=1, groups=groups, kernel_num=experts
            ),
            ((2, 16, 9, 7),),
        )
        for experts, groups in ((4, 1), (1, 4))
    ),
    Pair(
        "pconv",
        "authors",
        "Partial_conv3",
        of("JierunChen+FasterNet", "models/fasternet.py", "Partial_conv3", 16, 4, "split_cat"),
        ((2, 16, 9, 7),),
        {"channels": 16},
    ),
    Pair(
        "acnet",
        "authors",
        "ACBlock",
        of("DingXiaoH+ACNet", "acnet/acb.py", "ACBlock", 16, 24, 3, padding=1),
        ((2, 16, 9, 7),),
        {"channels": 16, "out_channels": 24},
        call=_relu,
    ),
    *(
        Pair(
            "dbb",
            "authors",
            f"DiverseBranchBlock(groups={groups})",
            of(
                "DingXiaoH+DiverseBranchBlock",
                "diversebranchblock.py",
                "DiverseBranchBlock",
                16,
                16,
                3,
                padding=1,
                groups=groups,
                before={"np": np},
            ),
            ((2, 16, 9, 7),),
            {"channels": 16, "out_channels": 16, "groups": groups},
        )
        for groups in (1, 4)
    ),
    Pair(
        "mobileone",
        "authors",
        "MobileOne(use_se=True)",
        of("apple+ml-mobileone", "mobileone.py", "MobileOne", [1, 2, 2, 1], 5, (0.25, 0.25, 0.125, 0.125), use_se=True),
        ((2, 3, 64, 64),),
    ),
    Pair(
        "mobileone",
        "authors",
        "MobileOne(num_conv_branches=2)",
        of(
            "apple+ml-mobileone",
            "mobileone.py",
            "MobileOne",
            [1, 2, 1, 1],
            5,
            (0.125, 0.125, 0.125, 0.125),
            num_conv_branches=2,
        ),
        ((2, 3, 64, 64),),
    ),
    Pair("mobileone_block", "authors", "two MobileOneBlocks", _mobileone_block, ((2, 16, 9, 7),)),
    *(
        Pair(
            "repvit_block",
            "authors",
            f"RepViTBlock(stride={stride}, use_se={gate})",
            of("THU-MIG+RepViT", "model/repvit.py", "RepViTBlock", 48, 96, out, 3, stride, gate, True),
            ((2, 48, 8, 6),),
        )
        for stride, out, gate in ((1, 48, True), (2, 64, True), (1, 48, False))
    ),
    Pair(
        "repmixer",
        "authors",
        "RepMixer",
        of("apple+ml-fastvit", "models/fastvit.py", "RepMixer", 16, 3),
        ((2, 16, 9, 7),),
    ),
    *(
        Pair(
            "dilated_reparam",
            "authors",
            f"DilatedReparamBlock({side})",
            of("AILab-CVC+UniRepLKNet", "unireplknet.py", "DilatedReparamBlock", 8, side, False, False, False),
            ((2, 8, 12, 11),),
        )
        for side in (7, 9)
    ),
    Pair(
        "replk",
        "authors",
        "RepLKBlock",
        of("DingXiaoH+RepLKNet-pytorch", "replknet.py", "RepLKBlock", 8, 16, 13, 5, 0.0),
        ((2, 8, 12, 11),),
    ),
    *(
        Pair(
            "repghost",
            "authors",
            f"RepGhostBottleneck(s={stride}, se_ratio={ratio})",
            of(
                "ChengpengChen+RepGhost",
                "model/repghost.py",
                "RepGhostBottleneck",
                16,
                12,
                24,
                stride=stride,
                se_ratio=ratio,
            ),
            ((2, 16, 9, 7),),
            {"stride": stride},
        )
        for stride, ratio in ((1, 0.0), (2, 0.25))
    ),
    Pair(
        "ecb",
        "authors",
        "ECB",
        of("xindongzhang+ECBSR", "models/ecb.py", "ECB", 8, 8, 2, act_type="prelu"),
        ((2, 8, 9, 7),),
        call=lambda module, x: module.train()(x),
        fixed=r"\.mask$",
    ),
    Pair(
        "inception_dw",
        "authors",
        "InceptionDWConv2d",
        of(
            "sail-sg+inceptionnext",
            "models/inceptionnext.py",
            "InceptionDWConv2d",
            16,
            before={"absent": {"timm.models.layers.helpers": {"to_2tuple": lambda x: (x, x)}}},
        ),
        ((2, 16, 9, 7),),
        {"channels": 16},
    ),
)
