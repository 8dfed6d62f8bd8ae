"""The command line. If the first word is not a command, it is a model: ``attn-export X`` is ``attn-export export X``.

Exit codes: 0 all gates passed · 1 a gate failed · 2 usage · 3 could not load, convert or read · 4 a required backend
is not available · 5 inconclusive · 70 internal error · 130 interrupted, 143 terminated. Stdout carries the result,
stderr progress and warnings. Defaults for a project stand in its ``pyproject.toml``, under ``[tool.attn-export]``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from attn_export import __version__
from attn_export.tools import ending, options
from attn_export.tools.contained import contained


class _Group(TyperGroup):
    """A group with a default command, for a first word that is not a command."""

    default = "export"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the default command unless the first word is a command or one of the group's own options."""
        own = {"--help", "--version", "--install-completion", "--show-completion", "-h"}
        if args and args[0] not in self.commands and args[0] not in own:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


class _Kits(_Group):
    default = "write"


_HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=_HELP,
)
kits = typer.Typer(cls=_Kits, no_args_is_help=True, rich_markup_mode=None, context_settings=_HELP)


def _version(wanted: bool) -> None:  # noqa: FBT001  # Typer calls it so
    if wanted:
        typer.echo(f"attn-export {__version__}")
        raise typer.Exit


@app.callback(epilog="Example: attn-export repvgg --fuse")
def _root(
    ctx: typer.Context,
    *,
    version: Annotated[  # noqa: ARG001  # its callback has acted
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Fuse, export and prove vision mechanisms for edge devices.

    If the first word is not a command, it is treated as the model to export: `attn-export repvgg --fuse` is
    `attn-export export repvgg --fuse`.
    """
    from attn_export.tools import settings

    assert isinstance(ctx.command, TyperGroup)
    ctx.default_map = settings.defaults_here(ctx.command)


@app.command(epilog="Example: attn-export my_pkg.net:build --input 1x3x224x224 --weights net.safetensors --fuse")
@contained
def export(
    *,
    subject: Annotated[
        str,
        typer.Argument(metavar="SUBJECT", help="A catalogue name, package.module:name, file.py:name, or an ONNX file."),
    ],
    fuse: Annotated[bool, typer.Option("--fuse", help="Collapse training-time branches first.")] = False,
    fuse_cost: options.FuseCost = "cpu",
    keep_branches: options.KeepBranches = None,
    border_maps: options.BorderMaps = False,
    weight_error: options.WeightError = False,
    fail_on_rollback: options.FailOnRollback = False,
    preset: options.PresetName = None,
    inputs: options.Inputs = None,
    outputs: options.Outputs = None,
    kwargs: options.Arguments = "{}",
    weights: options.Weights = None,
    weights_key: options.WeightsKey = None,
    variant: options.Variant = None,
    strict_weights: Annotated[
        bool, typer.Option(help="Whether missing or unexpected names in the weights are an error.")
    ] = True,
    randomize_weights: Annotated[
        bool, typer.Option(help="Without --weights: replace constant initial values by seeded random ones.")
    ] = True,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="The bundle's folder; its name by default.")
    ] = None,
    opset: Annotated[int, typer.Option(min=1, max=1000, metavar="N", help="The ONNX opset.")] = 18,
    dynamic: Annotated[
        str | None,
        typer.Option(metavar="DIMS", help="What may vary after export: batch, all, none, or names such as b,h,w."),
    ] = None,
    simplify: Annotated[bool, typer.Option(help="Whether to run the simplifier.")] = True,
    fp16: Annotated[bool, typer.Option("--fp16", help="Compute in float16, where that is safe.")] = False,
    equalize: Annotated[
        bool,
        typer.Option(
            "--equalize",
            help="Divide activations beyond float16 by powers of two, the next weights make up for it: same outputs.",
        ),
    ] = False,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="FORMATS", help="Further formats for the bundle, each proven where something runs it, such as ort."
        ),
    ] = None,
    int8: options.Int8 = False,
    snr: options.LeastSnr = None,
    top1_drop: options.Top1Drop = None,
    symmetric: options.Symmetric = False,
    per_tensor: options.PerTensor = False,
    labels: options.Labels = None,
    mutants: options.Mutants = "fast",
    data: options.Data = None,
    preprocess: Annotated[
        str | None,
        typer.Option(metavar="RULE", help="For images: size=224x224,mean=0.485/0.456/0.406,std=0.229/0.224/0.225."),
    ] = None,
    original: Annotated[
        bool, typer.Option(help="Whether to keep the model before any stage, for `verify --fresh`.")
    ] = True,
    bench: Annotated[bool, typer.Option(help="Whether to measure latency.")] = True,
    atol: options.Atol = None,
    rtol: options.Rtol = None,
    warmup: options.Warmup = 200,
    iterations: options.Iterations = 200,
    duration: options.Duration = 3.0,
    threads: options.Threads = 1,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, metavar="N", help="Seed of random weights and inputs.")
    ] = 0,
    cache: Annotated[
        bool, typer.Option(help="Whether to take the result of an equal run from the cache, and to keep this one.")
    ] = True,
    store: options.Store = None,
    as_json: options.Json = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Fuse, export, simplify, prove and measure one subject, and write its bundle."""
    parameters = dict(locals())  # all of them: an option that is added tells results apart, too
    from attn_export.tools.commands import kept, stored

    root = stored.prepared(store)
    job, typed = kept.job(parameters), tuple(sys.argv[1:])
    if job is not None and job.show_kept(output, typed, as_json=as_json):
        return
    from attn_export.export.source import SourceOptions
    from attn_export.pipeline.options import BuildOptions, DeployOptions
    from attn_export.tools.commands import export as command

    command.export(
        SourceOptions(
            text=subject,
            preset=preset,
            inputs=tuple(inputs or ()),
            arguments=options.arguments(kwargs),
            weights=weights,
            weights_key=weights_key,
            variant=variant,
            strict=strict_weights,
            randomize=randomize_weights,
            dynamic=dynamic,
            outputs=options.outputs(outputs),
            seed=seed,
        ),
        DeployOptions(
            output=output,
            build=BuildOptions(
                opset=opset,
                fuse=fuse,
                fuse_cost=fuse_cost,
                keep_branches=tuple(keep_branches or ()),
                border_maps=border_maps,
                weight_error=weight_error,
                fail_on_rollback=fail_on_rollback,
                simplify=simplify,
                equalize=equalize,
                fp16=fp16,
                to=options.formats(to),
                int8=options.int8(
                    wanted=int8, snr=snr, top1_drop=top1_drop, symmetric=symmetric, per_tensor=per_tensor
                ),
            ),
            seed=seed,
            threads=threads,
            atol=atol,
            rtol=rtol,
            mutants=options.mutants(mutants),
            data=data,
            preprocess=options.preprocess(preprocess),
            labels=labels,
            original=original,
            bench=bench,
            protocol=options.protocol(warmup, iterations, duration),
            command=typed,
        ),
        job,
        store=root,
        as_json=as_json,
        verbosity=-1 if quiet else verbose,
    )


@app.command(name="list", epilog="Example: attn-export list --family attention")
@contained
def list_(
    *,
    family: Annotated[str | None, typer.Option(metavar="FAMILY", help="Only this family.")] = None,
    as_json: options.Json = False,
) -> None:
    """List the catalogue."""
    from attn_export.tools.commands import catalogue

    catalogue.list_(family, as_json=as_json)


@app.command(epilog="Example: attn-export show triplet")
@contained
def show(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A catalogue name.")],
    as_json: options.Json = False,
) -> None:
    """Show one entry: paper, formula, shapes, presets."""
    from attn_export.tools.commands import catalogue

    catalogue.show(name, as_json=as_json)


@app.command(epilog="Example: attn-export choose --task segmentation --shape 2x256x14x14 --max-ratio 1.5 --target qnn")
@contained
def choose(
    *,
    shape: Annotated[
        str,
        typer.Option(
            metavar="SHAPE",
            help="Where: 2x64x56x56 or 2x256x14x14 (maps), 1x196x384 (tokens), or 1x3x224x224 (whole networks).",
        ),
    ] = "2x256x14x14",
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK", help="That the paper reports on: classification, detection, segmentation, video, sequence."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="BUDGET", help="At most: free (a quarter of the 3x3 convolution), light (as much), heavy."
        ),
    ] = None,
    max_ratio: Annotated[
        float | None,
        typer.Option(min=0, metavar="X", help="At most X times the 3x3 convolution, by the upper end of the interval."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="TARGET", help="Right, or compiled, there: such as qnn, qnn:sm8650:int8, tensorrt_rtx."),
    ] = None,
    family: Annotated[list[str] | None, typer.Option(metavar="FAMILY", help="Only this; repeat for several.")] = None,
    as_json: options.Json = False,
) -> None:
    """Say which entries fit a place, cheapest first, by what was measured at common shapes."""
    from attn_export.tools import choosing
    from attn_export.tools.commands import choose as command

    asked = choosing.Question(
        shape=shape,
        task=task,
        budget=budget,
        max_ratio=max_ratio,
        target=target,
        families=tuple(family or ()),
    )
    command.choose(asked, as_json=as_json)


@app.command(epilog="Example: attn-export verify repvgg --require tensorrt")
@contained
def verify(
    ctx: typer.Context,
    *,
    paths: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Bundles to verify, each a folder.")],
    backend: Annotated[
        list[str] | None, typer.Option(metavar="BACKEND", help="Verify on this backend; repeat for several.")
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(metavar="BACKEND", help="As --backend, but exit 4 when it is not available here."),
    ] = None,
    artifact: options.ArtifactName = None,
    shapes: options.Shapes = None,
    data: options.Data = None,
    preprocess: Annotated[
        str | None,
        typer.Option(metavar="RULE", help="For images, where the bundle has not recorded how to prepare them."),
    ] = None,
    fresh: Annotated[
        int,
        typer.Option(
            min=0,
            max=10**6,
            metavar="N",
            help="Also draw N inputs that the bundle has never seen, and hold it to its original in float64;"
            " needs the export side.",
        ),
    ] = 0,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=2**32 - 1, metavar="N", help="Of --fresh; another one each time, by default."),
    ] = None,
    atol: options.Atol = None,
    rtol: options.Rtol = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="K", help="The largest normalized error k that passes, instead of the bundle's own limit."
        ),
    ] = None,
    snr: Annotated[
        float | None,
        typer.Option(metavar="DB", help="The smallest signal-to-noise ratio that passes, instead of the bundle's."),
    ] = None,
    expect: options.Expect = None,
    signers: options.Signers = None,
    threads: options.Threads = 1,
    emulate: Annotated[
        str | None,
        typer.Option(
            metavar="MACHINE",
            help="Verify on an emulated processor: aarch64, as boards and phones have it. Downloads the emulator, a"
            " Python and the runtime's wheels from Debian and PyPI, once, after saying how much.",
        ),
    ] = None,
    cpu: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="With --emulate: which processor, as cortex-a72 (by default) or max."),
    ] = None,
    store: options.Store = None,
    on: options.On = None,
    patience: options.Patience = 60.0,
    keep: options.Keep = True,
    as_json: options.Json = False,
) -> None:
    """Verify bundles on this machine. Needs neither torch nor onnx, but for --fresh."""
    from attn_export.tools.commands import device

    asked = device.VerifyOptions(
        paths=tuple(paths),
        backends=tuple(backend or ()),
        require=tuple(require or ()),
        artifact=artifact,
        shapes=tuple(shapes or ()),
        data=data,
        preprocess=options.preprocess(preprocess),
        fresh=fresh,
        seed=seed,
        atol=atol,
        rtol=rtol,
        held=device.Held(expect, signers, tolerance, snr),
        threads=threads,
        store=store,
    )
    if on is not None:
        from attn_export.errors import UsageError
        from attn_export.tools.commands import on_device

        if emulate is not None or cpu is not None:
            raise UsageError("--on and --emulate are two machines; leave one of them out")
        words = options.typed(ctx, without=("on", "patience", "keep", "store"))
        there = on_device.Device(on=on, patience=patience, keep=keep, words=words)
        on_device.verify(asked, there, as_json=as_json)
        return
    if emulate is None and cpu is None:
        device.verify(asked, as_json=as_json)
        return
    from attn_export.tools.commands import emulate as command

    command.verify(asked, emulate, cpu, options.typed(ctx, without=("emulate", "cpu")))


@app.command(name="compile", epilog="Example: attn-export compile repvgg --target qnn:sm8650 --precision int8")
@contained
def compile_(
    *,
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")],
    target: options.Target = "tensorrt_rtx:sm86",
    artifact: options.ArtifactName = None,
    precision: Annotated[
        str,
        typer.Option(
            metavar="float16|int8",
            show_default=False,
            help="What the compiler brings a float32 model to, where it can; int8 is the bundle's own model in int8"
            " where it has one, and else takes its ranges from the cases.",
        ),
    ] = "",
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Run the cases on the maker's simulator; it is no chip, and has no time.")
    ] = False,
    install: Annotated[
        bool,
        typer.Option(
            "--install", help="Make the environment that the compiler needs; without, it is said what would go into it."
        ),
    ] = False,
    shapes: options.Shapes = None,
    expect: options.Expect = None,
    signers: options.Signers = None,
    as_json: options.Json = False,
) -> None:
    """Compile a bundle for a chip that this machine lacks, and record the result in its report; nothing is run."""
    from attn_export.tools.commands import device

    asked = device.CompileRequest(
        path=path,
        target=target,
        artifact=artifact,
        precision=precision,
        shapes=tuple(shapes or ()),
        simulate=simulate,
        install=install,
        held=device.Held(expect, signers, None, None),
    )
    device.compile_(asked, as_json=as_json)


@app.command(epilog="Example: attn-export sign repvgg --key ~/.ssh/id_ed25519")
@contained
def sign(
    *,
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")],
    key: Annotated[
        Path, typer.Option(metavar="FILE", help="An SSH key; the public one if an agent holds the private one.")
    ],
    as_json: options.Json = False,
) -> None:
    """Sign a bundle with an SSH key, as git signs commits; `verify --signers` holds it to that."""
    from attn_export.tools.commands import sign as command

    command.sign(path, key, as_json=as_json)


@app.command(epilog="Example: attn-export bench repvgg repvgg#ort")
@contained
def bench(
    ctx: typer.Context,
    *,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="BUNDLE [BUNDLE2]",
            help="One bundle, or two to compare; each may name an artifact and a backend: repvgg#ort@onnxruntime.",
        ),
    ],
    all_: Annotated[
        bool, typer.Option("--all", help="Rank every artifact of the bundle on every backend here that takes it.")
    ] = False,
    backend: Annotated[str | None, typer.Option(metavar="BACKEND", help="Where to measure.")] = None,
    artifact: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Which artifact of the bundles; the first that the backend takes."),
    ] = None,
    warmup: options.Warmup = 200,
    iterations: options.Iterations = 200,
    duration: options.Duration = 3.0,
    threads: options.Threads = 1,
    thorough: Annotated[bool, typer.Option("--thorough", help="Eight process pairs instead of five.")] = False,
    processes: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=1000,
            metavar="N",
            help="Least number of process pairs of a comparison; three times as many where it is noisy.",
            show_default="5",
        ),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE", help="Fail if a limit is exceeded: p90<=15ms, memory<=200MB, size<=10MB, cold-start<=1s."
        ),
    ] = None,
    faster_than: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="Fail unless faster than this bundle.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="A bundle, or its report.json, to compare this one with.")
    ] = None,
    max_regression: Annotated[
        str, typer.Option(metavar="PERCENT", help="How much slower than the baseline is still accepted.")
    ] = "3%",
    mlperf: Annotated[bool, typer.Option("--mlperf", help="Also report MLPerf's single-stream latency.")] = False,
    soak: Annotated[
        float, typer.Option(min=0, max=1e7, metavar="SECONDS", help="Run for this long and look for drift.")
    ] = 0,
    thread_sweep: Annotated[bool, typer.Option("--thread-sweep", help="Latency by number of threads.")] = False,
    batch_sweep: Annotated[
        str | None, typer.Option(metavar="SIZES", help="Latency by batch size, such as 1,2,4,8.")
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Show where the time goes, node by node.")] = False,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Search for faster settings of the runtime: threads, execution, graph level, other runtimes; confirmed"
            " in a fresh test before they are offered.",
        ),
    ] = False,
    tune_time: Annotated[
        float | None,
        typer.Option(
            min=1, max=1e6, metavar="SECONDS", help="Of --tune: half searches, half confirms.", show_default="60"
        ),
    ] = None,
    shapes: options.Shapes = None,
    on: options.On = None,
    patience: options.Patience = 60.0,
    keep: options.Keep = True,
    store: options.Store = None,
    as_json: options.Json = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Measure latency; given two bundles, or two artifacts of one, also their ratio with its A/A control."""
    from attn_export.tools.commands import bench as command

    asked = command.BenchOptions(
        paths=tuple(paths),
        all=all_,
        backend=backend,
        artifact=artifact,
        protocol=options.protocol(warmup, iterations, duration),
        threads=threads,
        thorough=thorough,
        processes=processes,
        budgets=tuple(budget or ()),
        faster_than=faster_than,
        baseline=baseline,
        max_regression=max_regression,
        mlperf=mlperf,
        soak=soak,
        thread_sweep=thread_sweep,
        batch_sweep=batch_sweep,
        profile=profile,
        tune=tune,
        tune_time=tune_time,
        shapes=tuple(shapes or ()),
        store=store,
    )
    verbosity = -1 if quiet else verbose
    if on is not None:
        from attn_export.tools.commands import on_device

        words = options.typed(ctx, without=("on", "patience", "keep", "store", "verbose"))
        words[1:1] = ["-v"] * verbose
        there = on_device.Device(on=on, patience=patience, keep=keep, words=words)
        on_device.bench(asked, there, as_json=as_json, verbosity=verbosity)
        return
    command.bench(asked, as_json=as_json, verbosity=verbosity)


@app.command(epilog="Example: attn-export fuse trained.onnx -o fused.onnx")
@contained
def fuse(
    *,
    subject: Annotated[
        str,
        typer.Argument(
            metavar="SUBJECT",
            help="An ONNX file of any producer, opset 7 to 26; or a PyTorch network: package.module:name or"
            " file.py:name.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where the fused file goes; of a network, its weights (.safetensors) or the module itself (.pt2).",
        ),
    ],
    inputs: options.Inputs = None,
    kwargs: options.Arguments = "{}",
    weights: options.Weights = None,
    weights_key: options.WeightsKey = None,
    fuse_cost: options.FuseCost = "cpu",
    keep_branches: options.KeepBranches = None,
    border_maps: options.BorderMaps = False,
    weight_error: options.WeightError = False,
    fail_on_rollback: options.FailOnRollback = False,
    as_json: options.Json = False,
) -> None:
    """Collapse the linear regions of an ONNX file or of a PyTorch network, with a certificate."""
    from attn_export.export.source import SourceOptions
    from attn_export.pipeline.options import BuildOptions
    from attn_export.tools.commands import fuse as command

    command.fuse(
        SourceOptions(
            text=subject,
            inputs=tuple(inputs or ()),
            arguments=options.arguments(kwargs),
            weights=weights,
            weights_key=weights_key,
            randomize=False,
        ),
        output,
        BuildOptions(
            fuse=True,
            fuse_cost=fuse_cost,
            keep_branches=tuple(keep_branches or ()),
            border_maps=border_maps,
            weight_error=weight_error,
            fail_on_rollback=fail_on_rollback,
        ),
        as_json=as_json,
    )


@app.command(epilog="Example: attn-export insert net.py:Net --input 1x3x224x224 --mechanism eca --after 'layer*.conv2'")
@contained
def insert(
    *,
    subject: Annotated[
        str, typer.Argument(metavar="SUBJECT", help="Your network: package.module:name, or file.py:name.")
    ],
    mechanism: Annotated[str, typer.Option(metavar="NAME", help="What to put in: a catalogue name.")],
    after: Annotated[
        list[str],
        typer.Option(
            metavar="PATTERN",
            help="Behind which modules, by their names in named_modules, such as 'layer*.conv2'; repeat for several.",
        ),
    ],
    preset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Preset of the mechanism; what depends on the shape follows the layer."),
    ] = None,
    mechanism_kwargs: Annotated[
        str, typer.Option(metavar="JSON", help="Arguments of the mechanism's constructor, over those of the preset.")
    ] = "{}",
    inputs: options.Inputs = None,
    kwargs: options.Arguments = "{}",
    weights: options.Weights = None,
    weights_key: options.WeightsKey = None,
    fuse: Annotated[bool, typer.Option("--fuse", help="Collapse training-time branches of both first.")] = False,
    bench: Annotated[bool, typer.Option(help="Whether to measure latency.")] = True,
    threads: options.Threads = 1,
    as_json: options.Json = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Show what a mechanism costs inside your network: a copy with it behind the layers that you name."""
    from attn_export.export.source import SourceOptions
    from attn_export.pipeline.options import BuildOptions
    from attn_export.tools.commands import insert as command

    command.cost(
        SourceOptions(
            text=subject,
            inputs=tuple(inputs or ()),
            arguments=options.arguments(kwargs),
            weights=weights,
            weights_key=weights_key,
        ),
        command.InsertOptions(
            mechanism=mechanism,
            after=tuple(after),
            preset=preset,
            arguments=options.arguments(mechanism_kwargs, "--mechanism-kwargs"),
            build=BuildOptions(fuse=fuse),
            bench=bench,
            threads=threads,
        ),
        as_json=as_json,
        verbosity=-1 if quiet else verbose,
    )


@app.command(epilog="Example: attn-export lint repvgg --target tensorrt:sm86")
@contained
def lint(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An ONNX file, or a bundle.")],
    target: Annotated[
        str,
        typer.Option(
            metavar="TARGET",
            help="Where the model will run: tensorrt, tensorrt:sm86, ort_mobile, openvino, ncnn, qnn, rknn, or fp16.",
        ),
    ] = "tensorrt:sm86",
    data: options.Data = None,
    preprocess: Annotated[
        str | None,
        typer.Option(metavar="RULE", help="For images among --data: size=224x224,mean=0.485/0.456/0.406,…."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the nodes that a target will refuse, get wrong, cast, split, leave to the CPU or not fuse."""
    from attn_export.tools.commands import graphs

    graphs.lint(file, target, data, options.preprocess(preprocess), as_json=as_json)


@app.command(epilog="Example: attn-export diff se --between exported,simplified@onnxruntime -o divergence")
@contained
def diff(
    *,
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
            help="Two of original, exported, fused, simplified, equalized, float16, model, a bundle, an ONNX file; each"
            " may run on a backend, such as exported,simplified@onnxruntime.",
        ),
    ] = None,
    fuse: Annotated[bool, typer.Option("--fuse", help="Fuse before simplifying.")] = False,
    snr: Annotated[
        float | None,
        typer.Option(
            metavar="DB", help="Signal-to-noise ratio required of the less precise side; needed if it is quantised."
        ),
    ] = None,
    preset: options.PresetName = None,
    inputs: options.Inputs = None,
    outputs: options.Outputs = None,
    kwargs: options.Arguments = "{}",
    weights: options.Weights = None,
    weights_key: options.WeightsKey = None,
    variant: options.Variant = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Write the smallest subgraph that shows it to this folder."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show where two runs first diverge: node, module and source line."""
    from attn_export.export.source import SourceOptions
    from attn_export.tools.commands import diff as command

    source = SourceOptions(
        text=what,
        preset=preset,
        inputs=tuple(inputs or ()),
        outputs=options.outputs(outputs),
        arguments=options.arguments(kwargs),
        weights=weights,
        weights_key=weights_key,
        variant=variant,
    )
    command.diff(
        command.DiffOptions(source=source, other=other, between=between, fuse=fuse, snr=snr, output=output),
        as_json=as_json,
    )


@app.command(epilog="Example: attn-export report repvgg --format markdown")
@contained
def report(
    *,
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's folder.")],
    kind: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="html, markdown, junit, sarif or json.")
    ] = "markdown",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="A file instead of stdout.")
    ] = None,
) -> None:
    """Print a bundle's report in another format."""
    from attn_export.tools.commands import report as command

    command.report(path, kind, output)


@kits.callback(epilog="Example: attn-export conform repvgg se -o kit")
def _kits() -> None:
    """Record raw measurements of a machine in a kit, so that anyone can re-check the figures.

    `attn-export conform BUNDLE... -o KIT` is `attn-export conform write BUNDLE... -o KIT`.
    """


@kits.command(name="write", epilog="Example: attn-export conform repvgg se -o kit")
@contained
def conform_write(
    *,
    paths: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Bundles to run, or folders of them.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="KIT", help="The kit's folder.")],
    backend: Annotated[str | None, typer.Option(metavar="BACKEND", help="What to run on.")] = None,
    as_json: options.Json = False,
) -> None:
    """Run bundles on this machine and keep every raw sample and output in a kit."""
    from attn_export.tools.commands import device

    device.write_kit(tuple(paths), output, backend=backend, as_json=as_json)


@kits.command(name="check", epilog="Example: attn-export conform check kit repvgg")
@contained
def conform_check(
    *,
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The kit's folder.")],
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="BUNDLE...", help="The bundles it was made of, to compare.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Recompute a kit's figures from its raw data, on any machine."""
    from attn_export.tools.commands import device

    device.check_kit(kit, tuple(paths or ()), as_json=as_json)


app.add_typer(kits, name="conform")


@app.command(epilog="Example: attn-export sweep --family attention --fuse")
@contained
def sweep(
    *,
    family: Annotated[
        list[str] | None, typer.Option(metavar="FAMILY", help="Only this family; repeat for several.")
    ] = None,
    preset: Annotated[
        list[str] | None, typer.Option(metavar="PRESET", help="With this preset; repeat for several.")
    ] = None,
    fuse: Annotated[
        bool | None, typer.Option("--fuse/--no-fuse", help="Only fused, or only unfused; both by default.")
    ] = None,
    variants: Annotated[bool, typer.Option(help="Whether to run each entry's variants too.")] = True,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where bundles, logs and the results go.")
    ] = Path("sweep"),
    matrix: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A TOML file of subjects, precisions, targets and devices to multiply out."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Run the jobs on this Dask cluster, as tls://host:8786 (docs/farm.md)."),
    ] = None,
    tls_ca: Annotated[
        Path | None, typer.Option("--tls-ca", metavar="FILE", help="Whom the cluster's certificates are signed by.")
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Your certificate for the cluster.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="The key of --tls-cert.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=1024, metavar="N", help="Worker processes.")] = 2,
    job_timeout: Annotated[
        float, typer.Option(min=1, max=1e6, metavar="SECONDS", help="Seconds that one entry may take.")
    ] = 600,
    bench: Annotated[bool, typer.Option(help="Whether to measure latency.")] = False,
    cache: Annotated[bool, typer.Option(help="Whether to reuse the results of what has not changed.")] = True,
    mutants: options.Mutants = "fast",
    store: options.Store = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run the whole catalogue, or a matrix, through the main job; prove and measure bundles on devices."""
    from attn_export.tools.commands import sweep as command

    command.sweep(
        command.SweepOptions(
            families=tuple(family or ()),
            presets=tuple(preset or ()),
            fuse=fuse,
            variants=variants,
            matrix=matrix,
            scheduler=scheduler,
            tls=(tls_ca, tls_cert, tls_key),
            output=output,
            workers=workers,
            job_timeout=job_timeout,
            bench=bench,
            cache=cache,
            mutants=options.mutants(mutants),
            store=store,
        ),
        as_json=as_json,
        quiet=quiet,
    )


@app.command(epilog="Example: attn-export history repvgg --store results")
@contained
def history(
    *,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="A subject, or a bundle's folder or digest; without, all are listed."),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where runs were kept; by default what ATTN_EXPORT_STORE names."),
    ] = None,
    machine: Annotated[str | None, typer.Option(metavar="NAME", help="Only runs of this machine.")] = None,
    metric: Annotated[str | None, typer.Option(metavar="time|ratio|error", help="Only these figures.")] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Only runs from this one on, by its hash or day; so a change is accepted."),
    ] = None,
    max_regression: Annotated[
        str | None,
        typer.Option(
            metavar="PERCENT",
            help="How much slower is still accepted; exit 5 where the interval holds it. Without, exit 1 for whatever"
            " is surely slower.",
        ),
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the index anew from the files.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show a subject's figures over time and where they changed; fail if the last run is worse than those before."""
    from attn_export.tools.commands import history as command

    command.history(
        command.HistoryOptions(
            name=name,
            store=store,
            machine=machine,
            metric=metric,
            since=since,
            max_regression=max_regression,
            rebuild=rebuild,
        ),
        as_json=as_json,
    )


@app.command(epilog="Example: attn-export doctor")
@contained
def doctor(*, as_json: options.Json = False) -> None:
    """Show what is installed, what is missing, and how to get it."""
    from attn_export.tools.commands import doctor as command

    command.report(as_json=as_json)


@app.command(epilog="Example: attn-export targets --json")
@contained
def targets(*, as_json: options.Json = False) -> None:
    """List runtimes, converters, compilers and lint rules: what is installed, and what each needs."""
    from attn_export.tools.commands import targets as command

    command.report(as_json=as_json)


@app.command(epilog="Example: attn-export cache clear")
@contained
def cache(
    *,
    action: Annotated[str, typer.Argument(metavar="[show|clear]", help="What to do with it.")] = "show",
    as_json: options.Json = False,
) -> None:
    """Show where results of the main job are kept, and which; or remove them."""
    from attn_export.tools.commands import cache as command

    command.cache(action, as_json=as_json)


def start() -> object:
    """Run the command line; what it cannot take is raised, and no library decides on the exit code."""
    return app(standalone_mode=False)


def main() -> None:
    """Run the command line in this process; every failure is one sentence on stderr and an exit code."""
    raise SystemExit(ending.coded(start))
