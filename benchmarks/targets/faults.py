"""Wrong files on purpose: a network with a fault is converted as a right one is, and held against the right reference.

What is planted is a fault of the network's weights, so that the way to the file is the real one, whatever a converter
starts from. A fault counts only where PyTorch itself, running the network with it, is found to be wrong by the same
cases: a bias that a softmax takes back is none. A coarser precision is asked for a signal-to-noise ratio, and there a
fault must lie below it in PyTorch as well.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from torch import nn

from attn_export.bundle import Artifact, Bundle
from attn_export.deploy_tests import backends, open_bundle
from attn_export.deploy_tests.backend import Options, Run
from attn_export.deploy_tests.parity.compare import prove
from attn_export.errors import AttnExportError
from attn_export.export.copies import copied
from attn_export.export.subject import Subject
from attn_export.export.torch_program import Positional
from attn_export.pipeline import stages
from attn_export.pipeline.options import BuildOptions
from attn_export.pipeline.stage import PipelineState
from attn_export.types import Array, Feeds

#: Places that a kind of fault is tried at, until one is a fault.
TRIED = 6

Faulty = Callable[[nn.Module], Iterator[nn.Module]]


def weights_zeroed(module: nn.Module) -> Iterator[nn.Module]:
    """Lose every matrix and kernel, as a converter does that writes a file without its weights."""
    made = copied(module)
    found = [parameter for parameter in made.parameters() if parameter.ndim > 1]
    for parameter in found:
        parameter.data.zero_()
    if found:
        yield made


def channel_larger(module: nn.Module) -> Iterator[nn.Module]:
    """Make one channel of one matrix or kernel five per cent larger, as a wrong scale does; the last one first."""
    names = [name for name, parameter in module.named_parameters() if parameter.ndim > 1]
    for name in reversed(names):
        made = copied(module)
        made.get_parameter(name).data[0] *= 1.05
        yield made


def bias_dropped(module: nn.Module) -> Iterator[nn.Module]:
    """Lose one bias, as a fusion does that forgets it; the last one first."""
    names = [name for name, parameter in module.named_parameters() if parameter.ndim == 1 and name.endswith("bias")]
    for name in reversed(names):
        made = copied(module)
        made.get_parameter(name).data.zero_()
        yield made


KINDS: tuple[Faulty, ...] = (weights_zeroed, channel_larger, bias_dropped)


def faulty(subject: Subject, whole: Bundle, snr: float | None = None) -> tuple[PipelineState, ...]:
    """Export the network with one fault of each kind that it can have.

    Args:
        subject: the right network.
        whole: its bundle.
        snr: what a fault must lie below, in dB; without it, a fault is what float32 shows.
    """
    found = []
    for kind in KINDS:
        for module in islice(_faults(kind, subject, whole, snr), 1):
            with suppress(AttnExportError):  # what cannot be exported cannot be planted
                found.append(_exported(replace(subject, module=module), whole))
    return tuple(found)


def planted(wrong: Sequence[PipelineState], whole: Bundle, target: str) -> tuple[int, int] | None:
    """Convert networks with a fault: how many were caught, of how many; None where no file came of any.

    ``whole`` is the bundle of the right network, whose last artifact is of the target.
    """
    results = [caught for state in wrong if (caught := _caught(state, whole, target)) is not None]
    return (sum(results), len(results)) if results else None


def _faults(kind: Faulty, subject: Subject, whole: Bundle, snr: float | None) -> Iterator[nn.Module]:
    """Yield networks with a fault of this kind that shows."""
    inputs, outputs = ([port.name for port in ports] for ports in (whole.inputs, whole.outputs))
    for module in islice(kind(subject.module), TRIED):
        run = _in_torch(Positional(module.eval(), inputs, outputs), inputs, outputs)
        if not prove(run, whole.cases, whole.outputs, backend="PyTorch", snr=snr).ok:
            yield module


def _in_torch(module: nn.Module, inputs: list[str], outputs: list[str]) -> Run:
    def run(feeds: Feeds) -> dict[str, Array]:
        with torch.inference_mode():
            found = module(*(torch.from_numpy(feeds[name]) for name in inputs))
        return {name: value.numpy() for name, value in zip(outputs, found, strict=True)}

    return run


def _exported(subject: Subject, whole: Bundle) -> PipelineState:
    return stages.build(subject, BuildOptions(fuse=True, certify=False), (whole.cases[0].inputs,))


def _caught(state: PipelineState, whole: Bundle, target: str) -> bool | None:
    """Convert a faulty network and hold it against the right reference; None where no file came of it."""
    artifact = whole.artifacts[-1]
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = stages.run(state, BuildOptions(fuse=True, certify=False, to=(target,)))
            for name, content in made.converted[-1].files.items():
                Path(folder, name).write_bytes(content)
            return not _holds(Path(folder, artifact.path.name), artifact, whole)
        except AttnExportError:
            return None


def _holds(path: Path, artifact: Artifact, whole: Bundle) -> bool:
    """Tell whether a file passes as the artifact whose name it has."""
    sizes, options = (
        open_bundle.narrowed(whole, artifact),
        Options(precision=artifact.precision, inputs=whole.inputs, outputs=whole.outputs),
    )
    cases, _ = sizes.fitting(whole.cases)
    with backends.opened(backends.backend_for(artifact.kind), path, options) as run:
        found = prove(
            sizes.taking(run),
            cases,
            whole.outputs,
            backend="",
            tolerance=artifact.normalized_limit,
            snr=artifact.snr_db_limit,
        )
    return found.ok
