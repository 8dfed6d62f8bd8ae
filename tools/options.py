"""Options that several commands share, each said once: its type, its unit and its help; and how some are read."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from attn_export.tools import fetched_weights

if TYPE_CHECKING:
    from attn_export.deploy_tests.data.images import Preprocess
    from attn_export.deploy_tests.latency.measure import Protocol
    from attn_export.pipeline import options as pipeline

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, show_default=False, help="Show every stage, even without a terminal."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no warnings.")]
Store = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Also keep this run in a store, for `history`; by default the one that ATTN_EXPORT_STORE names, if any.",
    ),
]
On = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="ADDRESS",
        help="Run on this device, ssh://user@host or ssh://user@host:port, by your own OpenSSH client; what it lacks is"
        " brought there once.",
    ),
]
Patience = Annotated[
    float,
    typer.Option(
        min=0, max=1e6, metavar="SECONDS", help="With --on: how long a device that stopped answering is waited for."
    ),
]
Keep = Annotated[bool, typer.Option(help="With --on: whether to add what ran to the bundle's report.")]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SHAPES",
        help="For runtimes with shape ranges: [input:]min,opt,max, as 1x3x64x64,1x3x64x64,8x3x64x64.",
    ),
]
ArtifactName = Annotated[
    str | None,
    typer.Option("--artifact", metavar="NAME", help="Only this artifact of the bundle; all that fit, by default."),
]
Threads = Annotated[int, typer.Option(min=1, max=1024, metavar="N", help="Threads of the runtime.")]
Atol = Annotated[
    float | None, typer.Option(min=0, metavar="X", help="Your own absolute tolerance, in addition to the derived one.")
]
Rtol = Annotated[
    float | None, typer.Option(min=0, metavar="X", help="Your own relative tolerance, in addition to the derived one.")
]
Warmup = Annotated[float, typer.Option(min=0, max=1e7, metavar="MS", help="Minimum milliseconds of warm-up.")]
Iterations = Annotated[int, typer.Option(min=1, max=10**9, metavar="N", help="Minimum number of timed runs.")]
Duration = Annotated[float, typer.Option(min=0, max=1e6, metavar="SECONDS", help="Minimum seconds of timed runs.")]
FuseCost = Annotated[
    str,
    typer.Option(metavar="PROFILE", help="Cost model that decides what is worth fusing: flops, cpu, gpu or npu."),
]
KeepBranches = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Do not fuse regions of this name, such as 'stages.0*'; repeat for several."),
]
BorderMaps = Annotated[
    bool, typer.Option("--border-maps", help="Allow a border map where padding breaks a bias; fixed sizes only.")
]
WeightError = Annotated[
    bool,
    typer.Option(
        "--weight-error", help="Say what int8 and fp16 would lose in each fused region's weights, before and after."
    ),
]
FailOnRollback = Annotated[
    bool, typer.Option("--fail-on-rollback", help="Fail if a fused region had to be rolled back.")
]
PresetName = Annotated[
    str | None, typer.Option(metavar="PRESET", help="A catalogue entry's configuration; `show` lists them.")
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="SHAPE",
        help="An input: x:1x3x224x224 or [1,3,224,224]; b=2x3xh=320%32xw=64..640 to let sizes vary, freely, by steps"
        " or in a range; ids:1x77:int64[0,49407] for another type and its values; feats.0:1x8x7x7 or"
        " batch.image:1x3x224x224 inside a list or dict.",
    ),
]
Outputs = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Which outputs to give, in this order, by name or position from 0, as boxes,scores; new=old renames one.",
    ),
]
Arguments = Annotated[str, typer.Option(metavar="JSON", help="Constructor arguments as a JSON object.")]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        parser=fetched_weights.local,
        help="A checkpoint: safetensors, or a plain torch file; hub:ORG/NAME of Hugging Face, or an https address.",
    ),
]
Variant = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Whose weights these are, if their names do not tell; the entry's page and the error list them.",
    ),
]
WeightsKey = Annotated[
    str | None,
    typer.Option(
        "--weights-key",
        metavar="KEY",
        help="Which part of the file, such as state_dict; averaged weights (EMA) are preferred.",
    ),
]
Mutants = Annotated[
    str,
    typer.Option(
        metavar="none|fast|full",
        help="Faults injected to test the parity check: none, fast (about 20 % extra time) or full.",
    ),
]
Data = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Your own inputs: a .npy, .npz or image file, or a folder.")
]
Int8 = Annotated[
    bool,
    typer.Option(
        "--int8",
        help="Also make the model in int8, from the folder of --data: half of its files calibrate, a quarter choose,"
        " the rest judge.",
    ),
]
LeastSnr = Annotated[
    float | None,
    typer.Option(
        "--snr",
        min=0,
        max=400,
        metavar="DB",
        help="Of --int8: what half of the images must keep of what varies between them; 20 by default.",
    ),
]
Top1Drop = Annotated[
    str | None,
    typer.Option(
        metavar="POINTS",
        help="Of --int8: the largest loss of top-1 accuracy, such as 0.5%, by its 95 % interval; needs --labels.",
    ),
]
Symmetric = Annotated[
    bool,
    typer.Option(
        "--symmetric",
        help="Of --int8: symmetric codes for activations too, as TensorRT takes them; by default uint8 with zero"
        " points, which CPUs are faster with.",
    ),
]
PerTensor = Annotated[
    bool,
    typer.Option("--per-tensor", help="Of --int8: one scale for a whole weight, for targets that have nothing else."),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="Of --int8: which class each file of --data shows: a list of file,label or a folder of folders.",
    ),
]
Expect = Annotated[
    str | None,
    typer.Option(metavar="DIGEST", help="Fail unless the bundle has this digest, sha256:…, as it was printed."),
]
Signers = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Fail unless one of these signed it: an allowed-signers file of OpenSSH."),
]
Target = Annotated[
    str,
    typer.Option(
        metavar="TARGET", help="Where the model will run, such as tensorrt_rtx:sm86; the chip follows the colon."
    ),
]

#: An output, perhaps with its new name before it.
_OUTPUT = re.compile(r"[^\s=]{1,200}(=[^\s=]{1,200})?")
#: Letters of ``--kwargs``.
_LONGEST = 1_000_000


def mutants(text: str) -> pipeline.Mutants:
    """Read ``--mutants``.

    Raises:
        UnknownNameError: it is none of them.
    """
    from attn_export.errors import UnknownNameError
    from attn_export.pipeline.options import Mutants as Known

    if text not in get_args(Known):
        raise UnknownNameError("kind of --mutants", text, get_args(Known))
    return cast("pipeline.Mutants", text)


def preprocess(text: str | None) -> Preprocess | None:
    """Read ``--preprocess``.

    Raises:
        UsageError: it cannot be read.
    """
    from attn_export.deploy_tests.data.images import parse_preprocess

    return parse_preprocess(text) if text else None


def outputs(text: str | None) -> tuple[str, ...]:
    """Read ``--outputs``.

    Raises:
        UsageError: a name is missing, or is none.

    >>> outputs("boxes, scores=1")
    ('boxes', 'scores=1')
    """
    from attn_export.errors import UsageError

    words = () if text is None else tuple(word.strip() for word in text.split(","))
    if wrong := [word for word in words if not _OUTPUT.fullmatch(word)]:
        raise UsageError(f"--outputs: expected names such as boxes,scores or boxes=0,scores=1; got {wrong[0][:200]!r}")
    return words


def formats(text: str | None) -> tuple[str, ...]:
    """Read ``--to``.

    Raises:
        UnknownNameError: there is no such converter.
        UsageError: that name compiles, and converts nothing.
        ExportError: there is no such precision.
    """
    if text is None:
        return ()
    from attn_export.deploy_tests import backends
    from attn_export.errors import UsageError
    from attn_export.export.converters import CONVERTERS, parse

    names = tuple(word.strip() for word in text.split(","))
    for name in names:
        word, _, precision = name.partition(":")
        if word not in CONVERTERS and word in backends.compilers():
            more = f" --precision {precision}" if precision == "int8" else ""
            raise UsageError(
                f"--to {name}: nothing is converted for {word}, it compiles the bundle's own files: write the bundle,"
                f" then attn-export compile BUNDLE --target {word}{more}"
            )
        parse(name)  # raises, and says which names are near
    return names


def int8(
    *, wanted: bool, snr: float | None, top1_drop: str | None, symmetric: bool, per_tensor: bool
) -> pipeline.Int8Options | None:
    """Read what a model in int8 is held to: a ratio in dB, a loss of accuracy, or both; None where there is to be none.

    Raises:
        UsageError: a limit is none, or there is one without --int8.
    """
    from attn_export.errors import UsageError
    from attn_export.pipeline.options import Int8Options

    if not wanted:
        for name, value in (("--snr", snr), ("--top1-drop", top1_drop)):
            if value is not None:
                raise UsageError(f"{name} is what a model in int8 is held to: add --int8, or leave it out")
        for name, given in (("--symmetric", symmetric), ("--per-tensor", per_tensor)):
            if given:
                raise UsageError(f"{name} is how a model in int8 is coded: add --int8, or leave it out")
        return None
    if snr == 0:
        raise UsageError("--snr: expected more than 0 dB, which a model that ignores its input has")
    drop = None if top1_drop is None else points(top1_drop)
    least = Int8Options().least_snr if snr is None and drop is None else snr
    return Int8Options(least_snr=least, top1_drop=drop, symmetric=symmetric, per_tensor=per_tensor)


def points(text: str) -> float:
    """Read a loss of accuracy in per cent as a share of one.

    >>> points("0.5%"), points("2 %")
    (0.005, 0.02)

    Raises:
        UsageError: it is none.
    """
    from attn_export.errors import UsageError

    found = re.fullmatch(r"\s*(\d{1,3}(?:\.\d{1,9})?)\s*%\s*", text, re.ASCII)
    if not found or not 0 < float(found[1]) < 100:
        raise UsageError(f"--top1-drop: expected a loss above 0 % and below 100 %, such as 0.5%; got {text[:80]!r}")
    return float(found[1]) / 100


def protocol(warmup: float, iterations: int, duration: float) -> Protocol:
    """Say how long to warm up (milliseconds) and to sample (runs, and seconds)."""
    from attn_export.deploy_tests.latency.measure import Protocol

    return Protocol(warmup / 1000, duration=duration, iterations=iterations)


def arguments(text: str, option: str = "--kwargs") -> dict[str, Any]:
    """Read ``--kwargs``, or another option of its kind.

    Raises:
        UsageError: it is not a JSON object.
    """
    from attn_export.errors import UsageError
    from attn_export.untrusted import plain_json

    expected = f"{option}: expected a JSON object such as '{{\"channels\": 64}}'"
    if len(text) > _LONGEST:
        raise UsageError(f"{expected}, of at most {_LONGEST} letters; got {len(text)}")
    shown = text[:200] + (" …" if len(text) > 200 else "")
    try:
        value = plain_json.parse(text)
    except ValueError as error:
        raise UsageError(f"{expected}; got {shown!r}: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{expected}; got {shown!r}")
    return value


def typed(context: typer.Context, *, without: Collection[str] = ()) -> list[str]:
    """Give the words after the program's name that mean what was typed, but for the parameters ``without``."""
    named, plain = [], []
    for parameter in context.command.params:
        name = str(parameter.name)
        source = context.get_parameter_source(name)
        if name in without or source is None or source.name != "COMMANDLINE":
            continue
        given = context.params[name]
        values = given if isinstance(given, (list, tuple)) else [given]
        if parameter.param_type_name == "argument":
            plain += [str(value) for value in values]
        elif isinstance(given, bool):
            named.append((parameter.opts if given else parameter.secondary_opts)[0])
        else:
            named += [f"{parameter.opts[0]}={value}" for value in values]
    return [str(context.info_name), *named, "--", *plain]


def chip(target: str) -> tuple[str, str]:
    """Split a target into its name and its chip, which may be empty.

    >>> chip("tensorrt_rtx:sm86"), chip("ort_mobile")
    (('tensorrt_rtx', 'sm86'), ('ort_mobile', ''))
    """
    name, _, what = target.partition(":")
    return name, what
