"""Options that several commands share, each said once: its type, its unit and its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, show_default=False, help="Show every stage, even without a terminal."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no warnings.")]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SHAPES", help="TensorRT: [input:]least,usual,largest shape, as 1x3x64x64,1x3x64x64,8x3x64x64."
    ),
]
Threads = Annotated[int, typer.Option(min=1, metavar="N", help="Threads of the runtime.")]
Atol = Annotated[
    float | None, typer.Option(min=0, metavar="X", help="Your own absolute tolerance, besides the derived one.")
]
Rtol = Annotated[
    float | None, typer.Option(min=0, metavar="X", help="Your own relative tolerance, besides the derived one.")
]
Warmup = Annotated[float, typer.Option(min=0, metavar="MS", help="Milliseconds of warm-up, at least.")]
Iterations = Annotated[int, typer.Option(min=1, metavar="N", help="Timed runs, at least.")]
Duration = Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Seconds of timed runs, at least.")]
FuseCost = Annotated[str, typer.Option(metavar="PROFILE", help="What pays: flops, cpu, gpu or npu.")]
KeepBranches = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Do not fuse sites of this name, such as 'stages.0*'; repeat for several."),
]
Repair = Annotated[
    bool, typer.Option("--repair", help="Allow a border map where padding breaks a bias; fixed sizes only.")
]
PresetName = Annotated[
    str | None, typer.Option(metavar="PRESET", help="A catalogue entry's configuration; `show` lists them.")
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="SHAPE",
        help="An input's shape: x:1x3x224x224, [1,3,224,224], or b=2x3x224x224 to let b vary.",
    ),
]
Arguments = Annotated[str, typer.Option(metavar="JSON", help="Constructor arguments as a JSON object.")]
Weights = Annotated[Path | None, typer.Option(metavar="FILE", help="A checkpoint: safetensors, or a plain torch file.")]
Variant = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Whose weights these are, where names do not say it; the entry's page, and the error, list them.",
    ),
]
WeightsKey = Annotated[
    str | None,
    typer.Option(
        "--weights-key",
        metavar="KEY",
        help="Which part of the file, such as state_dict; averaged weights (EMA) are taken first.",
    ),
]
Mutants = Annotated[
    str,
    typer.Option(
        metavar="none|fast|full", help="Faults planted to check the check: none, fast (a fifth of the run) or full."
    ),
]
Data = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Your own inputs: a .npy, .npz or image file, or a folder.")
]
