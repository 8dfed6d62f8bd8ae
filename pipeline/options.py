"""What the main job is asked for. Every field has the name of the option that sets it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from attn_export.deploy_tests.data.images import Preprocess
from attn_export.deploy_tests.latency.comparison import Rules
from attn_export.deploy_tests.latency.measure import Protocol
from attn_export.export.onnx.opset import OPSET

Mutants = Literal["none", "fast", "full"]
Precision = Literal["float32", "float16"]


@dataclass(frozen=True, kw_only=True)
class Int8Options:
    """What a model in int8 is held to.

    Attributes:
        least_snr: what half of the images must reach of what varies over the error, in dB; None where only accuracy
            counts.
        top1_drop: the largest loss of top-1 accuracy on labelled images, as a share of one; None where that is not
            asked for.
        symmetric: whether activations are symmetric int8 throughout, as some targets need it; else uint8 with zero
            points, which processors are faster with.
        per_tensor: whether a weight has one scale for all of its channels, where a target has nothing else.
    """

    least_snr: float | None = 20.0
    top1_drop: float | None = None
    symmetric: bool = False
    per_tensor: bool = False


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """What the stages do to a subject.

    Attributes:
        opset: of the ONNX standard.
        fuse: whether training-time branches are collapsed.
        fuse_cost: the cost model that decides what is worth fusing.
        keep_branches: patterns of site names that stay as they are.
        border_maps: whether a constant that a padding breaks may become a map (fixed sizes only).
        fail_on_rollback: whether a site that had to be rolled back ends the job.
        weight_error: whether to compute what int8 and fp16 would lose in the weights of each fused region; it is where
            the model is made int8 or computes in float16.
        certify: whether fusing is proven on the whole graph in float64; what is only compiled can do without.
        simplify: whether to run the simplifier.
        equalize: whether activations beyond float16 are divided by powers of two, which changes no output.
        fp16: whether to compute in float16.
        to: further formats that the model is converted to, each an artifact of the bundle.
        int8: what a second model, in int8, is held to; None where there is to be none.
    """

    opset: int = OPSET
    fuse: bool = False
    fuse_cost: str = "cpu"
    keep_branches: tuple[str, ...] = ()
    border_maps: bool = False
    fail_on_rollback: bool = False
    weight_error: bool = False
    certify: bool = True
    simplify: bool = True
    equalize: bool = False
    fp16: bool = False
    to: tuple[str, ...] = ()
    int8: Int8Options | None = None

    @property
    def precision(self) -> Precision:
        """The element type that the model computes in."""
        return "float16" if self.fp16 else "float32"


@dataclass(frozen=True, kw_only=True)
class DeployOptions:
    """What the user asked for.

    Attributes:
        output: the bundle's folder; by default one of the subject's name.
        build: what the stages do.
        seed: of the inputs that are drawn.
        threads: of the runtime.
        atol: the user's own absolute tolerance, besides the derived one.
        rtol: the user's own relative tolerance, besides the derived one.
        mutants: how many faults are injected to check the check.
        data: the user's own inputs.
        preprocess: how images among them become inputs.
        labels: which class each of the user's inputs shows, a list or a folder of folders; for int8 alone.
        original: whether the bundle holds the model before any stage changed it, for ``verify --fresh``.
        bench: whether to measure latency.
        protocol: how long to warm up and to sample.
        rules: how the comparison of two models is played.
        command: what was typed, for the record.
    """

    output: Path | None = None
    build: BuildOptions = field(default_factory=BuildOptions)
    seed: int = 0
    threads: int = 1
    atol: float | None = None
    rtol: float | None = None
    mutants: Mutants = "fast"
    data: Path | None = None
    preprocess: Preprocess | None = None
    labels: Path | None = None
    original: bool = True
    bench: bool = True
    protocol: Protocol = field(default_factory=Protocol)
    rules: Rules = field(default_factory=Rules)
    command: tuple[str, ...] = ()
