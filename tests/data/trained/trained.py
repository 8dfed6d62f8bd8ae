"""The networks with their weights, and as ONNX: what quantising is tried on."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import onnx
import torch
from safetensors.torch import load_file
from torch import nn

from attn_export import api
from attn_export.pipeline import stages
from attn_export.pipeline.options import BuildOptions
from attn_export.types import Dim
from tests.data.trained.nets import NETS

FOLDER = Path(__file__).parent


def module(name: str) -> nn.Module:
    """Give a network with its trained weights, in evaluation mode."""
    net = NETS[name]().eval()
    net.load_state_dict(load_file(FOLDER / f"{name}.safetensors"))
    return net


@lru_cache(16)
def exported(name: str, *, fuse: bool) -> onnx.ModelProto:
    """Give a network as the main job exports it, with a batch of any size: input ``x``, ``b 3 32 32``."""
    subject = api.load(module(name), (torch.zeros(2, 3, 32, 32),), dynamic={"x": {0: Dim("b", 1)}}, name=name)
    return stages.build(subject, BuildOptions(fuse=fuse)).model.model
