"""The command line. A word that is no command is a subject: ``attn-export X`` is ``attn-export export X``.

Exit codes: 0 all gates passed · 1 a gate failed · 2 usage · 3 could not load, convert or read · 4 a required backend
is not available · 5 inconclusive · 70 a fault of ours · 130 interrupted, 143 terminated. Stdout carries the result,
stderr progress and warnings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from attn_export import __version__
from attn_export.tools import ending, options
from attn_export.tools.contained import contained


class _Group(TyperGroup):
    """A group whose unknown first word is a subject for ``export``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert ``export`` where the first word is no command and no option of the group's own."""
        own = {"--help", "--version", "--install-completion", "--show-completion", "-h"}
        if args and args[0] not in self.commands and args[0] not in own:
            args = ["export", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"attn-export {__version__}")
        raise typer.Exit


@app.callback(epilog="Example: attn-export repvgg --fuse")
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Fuse, export and prove vision mechanisms for edge devices.

    A word that is no command is a subject: `attn-export repvgg --fuse` is `attn-export export repvgg --fuse`.
    """


@app.command(epilog="Example: attn-export my_pkg.net:build --input 1x3x224x224 --weights net.safetensors --fuse")
@contained
def export(
    subject: Annotated[
        str,
        typer.Argument(metavar="SUBJECT", help="A catalogue name, package.module:name, file.py:name, or an ONNX file."),
    ],
    fuse: Annotated[bool, typer.Option("--fuse", help="Collapse training-time branches first.")] = False,
    fuse_cost: options.FuseCost = "cpu",
    keep_branches: options.KeepBranches = None,
    repair: options.Repair = False,
    preset: options.PresetName = None,
    inputs: options.Inputs = None,
    kwargs: options.Arguments = "{}",
    weights: options.Weights = None,
    weights_key: options.WeightsKey = None,
    variant: options.Variant = None,
    strict: Annotated[
        bool | None,
        typer.Option(
            help="Names missing in the weights, or unexpected, are an error (default); so are rolled-back sites."
        ),
    ] = None,
    awaken: Annotated[
        bool, typer.Option(help="Without weights: draw those that a fresh module leaves at 0 or 1.")
    ] = True,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="The bundle's folder; its name by default.")
    ] = None,
    opset: Annotated[int, typer.Option(metavar="N", help="The ONNX opset.")] = 18,
    dynamic: Annotated[
        str | None,
        typer.Option(metavar="DIMS", help="What may vary after export: batch, all, none, or names such as b,h,w."),
    ] = None,
    simplify: Annotated[bool, typer.Option(help="Whether to run the simplifier.")] = True,
    fp16: Annotated[bool, typer.Option("--fp16", help="Compute in float16, where that is safe.")] = False,
    mutants: options.Mutants = "fast",
    data: options.Data = None,
    preprocess: Annotated[
        str | None,
        typer.Option(metavar="RULE", help="For images: size=224x224,mean=0.485/0.456/0.406,std=0.229/0.224/0.225."),
    ] = None,
    bench: Annotated[bool, typer.Option(help="Whether to measure latency.")] = True,
    atol: options.Atol = None,
    rtol: options.Rtol = None,
    warmup: options.Warmup = 200,
    iterations: options.Iterations = 200,
    duration: options.Duration = 3.0,
    threads: options.Threads = 1,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="For weights that are drawn, and inputs.")] = 0,
    as_json: options.Json = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Fuse, export, simplify, prove and measure one subject, and write its bundle."""
    from attn_export.tools.commands import export as exporting

    exporting.export(
        exporting.SourceOptions(
            subject,
            preset,
            tuple(inputs or ()),
            _arguments(kwargs),
            weights,
            strict is not False,
            awaken,
            dynamic,
            output,
            seed,
            variant,
            weights_key,
        ),
        {
            "fuse": fuse,
            "cost": fuse_cost,
            "keep": tuple(keep_branches or ()),
            "repair": repair,
            "strict": bool(strict),
            "simplify": simplify,
            "half": fp16,
            "mutants": mutants,
            "data": data,
            "preprocess": preprocess,
            "opset": opset,
            "threads": threads,
            "atol": atol,
            "rtol": rtol,
            "measure": bench,
        },
        (warmup / 1000, iterations, duration),
        as_json,
        -1 if quiet else verbose,
    )


@app.command(name="list", epilog="Example: attn-export list --family attention")
@contained
def list_(
    family: Annotated[str | None, typer.Option(metavar="FAMILY", help="Only this family.")] = None,
    as_json: options.Json = False,
) -> None:
    """List the catalogue."""
    from attn_export.tools.commands import catalogue

    catalogue.list_(family, as_json)


@app.command(epilog="Example: attn-export show triplet")
@contained
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A catalogue name.")], as_json: options.Json = False
) -> None:
    """Show one entry: paper, formula, shapes, presets."""
    from attn_export.tools.commands import catalogue

    catalogue.show(name, as_json)


@app.command(epilog="Example: attn-export verify repvgg --require tensorrt")
@contained
def verify(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")],
    backend: Annotated[
        list[str] | None, typer.Option(metavar="BACKEND", help="Prove it on this backend; repeat for several.")
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(metavar="BACKEND", help="As --backend, but exit 4 when it is not available here."),
    ] = None,
    compile_only: Annotated[
        bool, typer.Option("--compile-only", help="With TensorRT: build for --sm without a GPU, and run nothing.")
    ] = False,
    sm: Annotated[str, typer.Option(metavar="XY", help="The GPU to build for, by its compute capability.")] = "86",
    shapes: options.Shapes = None,
    data: options.Data = None,
    preprocess: Annotated[
        str | None,
        typer.Option(metavar="RULE", help="For images, where the bundle has not recorded how to prepare them."),
    ] = None,
    atol: options.Atol = None,
    rtol: options.Rtol = None,
    tolerance: Annotated[
        float | None,
        typer.Option(metavar="K", help="Hold it to this k, at your own judgement, instead of the bundle's."),
    ] = None,
    snr: Annotated[
        float | None, typer.Option(metavar="DB", help="Hold it to this signal-to-noise ratio instead of the bundle's.")
    ] = None,
    expect: Annotated[
        str | None, typer.Option(metavar="DIGEST", help="Fail unless this is its digest, sha256:…, as it was printed.")
    ] = None,
    signers: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Fail unless one of OpenSSH's allowed signers here signed it.")
    ] = None,
    threads: options.Threads = 1,
    as_json: options.Json = False,
) -> None:
    """Prove a bundle again, on this machine. Needs neither torch nor onnx."""
    from attn_export.tools.commands import device

    held = device.Held(expect, signers, tolerance, snr)
    if compile_only:
        device.compile_only(path, sm, as_json, tuple(shapes or ()), held)
    else:
        device.verify(
            path,
            tuple(backend or ()),
            tuple(require or ()),
            atol,
            rtol,
            threads,
            as_json,
            data,
            preprocess,
            tuple(shapes or ()),
            held,
        )


@app.command(epilog="Example: attn-export sign repvgg --key ~/.ssh/id_ed25519")
@contained
def sign(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")],
    key: Annotated[
        Path, typer.Option(metavar="FILE", help="An SSH key; a public one where an agent holds the private one.")
    ],
    as_json: options.Json = False,
) -> None:
    """Sign a bundle with an SSH key, as git signs commits; `verify --signers` holds it to that."""
    from attn_export.tools.commands import sign as signing

    signing.sign(path, key, as_json)


@app.command(epilog="Example: attn-export bench fused plain")
@contained
def bench(
    paths: Annotated[list[Path], typer.Argument(metavar="BUNDLE [BUNDLE2]", help="One bundle, or two to compare.")],
    backend: Annotated[str, typer.Option(metavar="BACKEND", help="Where to measure.")] = "onnxruntime",
    warmup: options.Warmup = 200,
    iterations: options.Iterations = 200,
    duration: options.Duration = 3.0,
    threads: options.Threads = 1,
    thorough: Annotated[bool, typer.Option("--thorough", help="Eight process pairs instead of five.")] = False,
    budget: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE", help="Fail beyond this: p90<=15ms, memory<=200MB, size<=10MB, cold-start<=1s."),
    ] = None,
    faster_than: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="Fail unless faster than this bundle.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="A bundle, or its report.json, to hold this one against.")
    ] = None,
    max_regression: Annotated[
        str, typer.Option(metavar="PERCENT", help="How much slower than the baseline it may be.")
    ] = "3%",
    mlperf: Annotated[bool, typer.Option("--mlperf", help="MLPerf's single-stream figure, too.")] = False,
    sustain: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Seconds of a run that looks for drift.")
    ] = 0,
    thread_sweep: Annotated[bool, typer.Option("--thread-sweep", help="Latency by number of threads.")] = False,
    batch_sweep: Annotated[
        str | None, typer.Option(metavar="SIZES", help="Latency by batch size, such as 1,2,4,8.")
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Where the time goes, node by node.")] = False,
    shapes: options.Shapes = None,
    as_json: options.Json = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Measure latency; of two bundles, the interleaved ratio with its control."""
    from attn_export.tools.commands import bench as benching

    benching.bench(
        benching.BenchOptions(
            tuple(paths),
            backend,
            (warmup / 1000, iterations, duration),
            threads,
            thorough,
            tuple(budget or ()),
            faster_than,
            baseline,
            max_regression,
            mlperf,
            sustain,
            thread_sweep,
            batch_sweep,
            profile,
            tuple(shapes or ()),
        ),
        as_json,
        -1 if quiet else verbose,
    )


@app.command(epilog="Example: attn-export fuse trained.onnx -o fused.onnx")
@contained
def fuse(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An ONNX file of any producer, opset 11 to 26.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where the fused file goes.")],
    fuse_cost: options.FuseCost = "cpu",
    keep_branches: options.KeepBranches = None,
    repair: options.Repair = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail where a site had to be rolled back.")] = False,
    as_json: options.Json = False,
) -> None:
    """Collapse the linear regions of an ONNX file, with a certificate."""
    from attn_export.tools.commands import graphs

    graphs.fuse(file, output, fuse_cost, tuple(keep_branches or ()), repair, strict, as_json)


@app.command(epilog="Example: attn-export lint repvgg --target tensorrt")
@contained
def lint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An ONNX file, or a bundle.")],
    target: Annotated[
        str, typer.Option(metavar="TARGET", help="Where it is to run: tensorrt or ort-mobile.")
    ] = "tensorrt",
    sm: Annotated[
        str, typer.Option(metavar="XY", help="For TensorRT's parser: the GPU, by its compute capability.")
    ] = "86",
    as_json: options.Json = False,
) -> None:
    """Say which nodes a target will refuse, cast, split or not fuse."""
    from attn_export.tools.commands import graphs

    graphs.lint(file, target, sm, as_json)


@app.command(epilog="Example: attn-export diff se --between exported,simplified@onnxruntime -o parting")
@contained
def diff(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="A bundle, an ONNX file, or a subject as the main job takes it.")
    ],
    other: Annotated[
        str | None,
        typer.Argument(metavar="OTHER", help="A backend (onnxruntime by default), another bundle, or an ONNX file."),
    ] = None,
    between: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Two of original, exported, fused, simplified, float16, model, a bundle, an ONNX file; each may run"
            " on a backend, such as exported,simplified@onnxruntime.",
        ),
    ] = None,
    fuse: Annotated[bool, typer.Option("--fuse", help="Make the simplified stage of the fused one.")] = False,
    snr: Annotated[
        float | None,
        typer.Option(metavar="DB", help="What the coarser side is held to, in dB; a quantised model needs it."),
    ] = None,
    preset: options.PresetName = None,
    inputs: options.Inputs = None,
    kwargs: options.Arguments = "{}",
    weights: options.Weights = None,
    weights_key: options.WeightsKey = None,
    variant: options.Variant = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Write the smallest part that shows it to this folder."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Say where two runs part: the first node, its module and line."""
    from attn_export.tools.commands import diff as diff_command
    from attn_export.tools.commands import export as exporting

    wanted = exporting.SourceOptions(
        what,
        preset,
        tuple(inputs or ()),
        _arguments(kwargs),
        weights,
        True,
        True,
        None,
        output,
        0,
        variant,
        weights_key,
    )
    diff_command.diff(diff_command.DiffOptions(wanted, other, between, fuse, snr, output), as_json)


@app.command(epilog="Example: attn-export report repvgg --format markdown")
@contained
def report(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")],
    kind: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="html, markdown, junit, sarif or json.")
    ] = "markdown",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="A file instead of stdout.")
    ] = None,
) -> None:
    """Print a bundle's report in another format."""
    from attn_export.tools.commands import report as reporting

    reporting.report(path, kind, output)


@app.command(epilog="Example: attn-export conform repvgg se --out kit")
@contained
def conform(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="BUNDLE...", help="Bundles to run or to compare, or folders of them.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run on this machine's GPU and write the kit here.")
    ] = None,
    check: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Recompute a kit's figures from its raw data, on any machine.")
    ] = None,
    backend: Annotated[str, typer.Option(metavar="BACKEND", help="What to run on.")] = "tensorrt",
    as_json: options.Json = False,
) -> None:
    """Keep what a GPU machine measured in a kit that anyone can recompute."""
    from attn_export.tools.commands import device

    device.conform(tuple(paths or ()), out, check, backend, as_json)


@app.command(epilog="Example: attn-export sweep --family attention --fuse")
@contained
def sweep(
    family: Annotated[
        list[str] | None, typer.Option(metavar="FAMILY", help="Only this family; repeat for several.")
    ] = None,
    preset: Annotated[
        list[str] | None, typer.Option(metavar="PRESET", help="Under this preset; repeat for several.")
    ] = None,
    fuse: Annotated[
        bool | None, typer.Option("--fuse/--plain", help="Only fused, or only plain; both by default.")
    ] = None,
    variants: Annotated[bool, typer.Option(help="Whether to run each entry's variants too.")] = True,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where bundles, logs and the results go.")
    ] = Path("sweep"),
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Worker processes.")] = 2,
    limit: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="Seconds that one entry may take.")] = 600,
    bench: Annotated[bool, typer.Option(help="Whether to measure latency.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Run what has not changed, too.")] = False,
    mutants: options.Mutants = "fast",
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run the whole catalogue through the main job."""
    from attn_export.tools.commands import sweep as sweeping

    sweeping.sweep(
        family or [], preset or ["test"], fuse, variants, output, workers, limit, bench, again, mutants, as_json, quiet
    )


@app.command(epilog="Example: attn-export doctor")
@contained
def doctor(as_json: options.Json = False) -> None:
    """Say what is installed, what is missing, and how to get it."""
    from attn_export.tools.commands import doctor as examine

    examine.report(as_json)


#: Letters of ``--kwargs``.
_LONGEST = 1_000_000


def _arguments(text: str) -> dict[str, Any]:
    from attn_export.errors import UsageError
    from attn_export.untrusted import plain_json

    wanted = "--kwargs wants a JSON object such as '{\"channels\": 64}'"
    if len(text) > _LONGEST:
        raise UsageError(f"{wanted}, of at most {_LONGEST} letters; came {len(text)}")
    shown = text[:200] + (" …" if len(text) > 200 else "")
    try:
        value = plain_json.parse(text)
    except ValueError as error:
        raise UsageError(f"{wanted}; came {shown!r}: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{wanted}; came {shown!r}")
    return value


def start() -> object:
    """Run the command line; what it cannot take is raised, and no library decides on the exit code."""
    return app(standalone_mode=False)


def main() -> None:
    """Run the command line in this process; every failure is one sentence on stderr and an exit code."""
    raise SystemExit(ending.coded(start))
