"""A probe through a converter of ours and the runtime behind it, in a process that may die."""

from __future__ import annotations

import multiprocessing
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from attn_export.bundle import SNR
from attn_export.deploy_tests.backends import BACKENDS, backend_for
from attn_export.errors import AttnExportError, BackendMissingError, ExportError
from attn_export.export.converters import CONVERTERS, Source, parse
from attn_export.export.lint._probed import Probed
from attn_export.pipeline.gate import ParityGate
from attn_export.pipeline.stage import Made
from attn_export.process import children
from attn_export.untrusted.text import first_line
from benchmarks.probes import torch_node
from benchmarks.probes.answer import TAKEN, Answer, said
from benchmarks.probes.probe import Probe, inside

_CONTEXT = multiprocessing.get_context("spawn")
#: Finds in a refusal that it is about the ends of a graph, and not about what lies between.
_ENDS = re.compile(r"for a batch of one|dropped input").search
#: Seconds that one probe may take.
LIMIT = 60.0


def ask(target: str, probe: Probe) -> Answer:
    """Convert one probe and compare what comes with its reference; where it is not taken, once more between others.

    Raises:
        BackendMissingError: nothing here runs what the converter writes.
    """
    answer = _asked(target, probe)
    if answer.kind in ("refused", "wrong") and not torch_node.wanted(parse(target)[0]):
        between = inside(probe)
        if between is not None:
            inner = _asked(target, between)
            return (
                said("unknown", f"neither alone nor between others: {inner.reason}") if _ENDS(inner.reason) else inner
            )
    return answer


def _asked(target: str, probe: Probe) -> Answer:
    name, precision = parse(target)
    source = Source(probe.exported, probe.case.inputs, None, "float32", precision)
    try:
        if torch_node.wanted(name):
            source = replace(source, program=lambda: torch_node.program(probe))
        one = CONVERTERS[name].convert(source)
    except torch_node.NoWordError as error:
        return said("unknown", str(error))
    except ExportError as error:
        return said("refused", first_line(error))
    made = Made("convert", probe.exported, precision="float32", converted=(one,))
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = ParityGate([probe.case], Path(folder)).converted(made)
    except BackendMissingError:
        raise
    except AttnExportError as error:
        return said("refused", first_line(error))
    assert result is not None, "each of these formats has a runtime here"
    parity = result.parity
    if not parity.ok:
        return said("wrong", parity.worst.failure or _off(parity.worst.snr_db))
    left = [note for note in one.notes if "plain kernels" in note]
    return said("cpu", left[0]) if left else TAKEN


def _off(snr: float) -> str:
    return f"it computes something else: {snr:.0f} dB where {SNR['float16']:.0f} dB is what float16 gives"


def differing(kept: Probed, asked: Iterable[tuple[Probe, Answer]]) -> list[str]:
    """List the forms of which something else is kept than was answered."""
    return [
        f"{form}: {f'{kept.answers[form][0]} in' if form in kept.answers else 'not in'} the data, {answer.kind} now"
        for probe, answer in asked
        for form in probe.forms
        if kept.answers.get(form, ("",))[0] != answer.kind
    ]


def versions(target: str) -> dict[str, str]:
    """Name the runtime that ran the probes."""
    name, _ = parse(target)
    kinds = {"executorch": "pte", "litert": "tflite"}
    backend = BACKENDS[backend_for(kinds.get(name, name))]
    return {"runtime": backend.version()}


def answers(target: str, probes: Sequence[Probe]) -> Iterator[tuple[Probe, Answer]]:
    """Ask about all probes; a process that dies or does not end is an answer, too."""
    worker: tuple[multiprocessing.process.BaseProcess, multiprocessing.connection.Connection] | None = None
    for probe in probes:
        if worker is None:
            worker = _started(target, ask)
        process, pipe = worker
        pipe.send(probe)
        answer = said("refused", f"it did not end within {LIMIT:g} s")
        if pipe.poll(LIMIT):
            try:
                answer = pipe.recv()
            except EOFError:
                process.join()
                answer = said("refused", f"its process ended: {children.ending(process.exitcode or 0)}")
                worker = None
        else:
            worker = None
        if worker is None:
            process.kill()
            process.join()
        if isinstance(answer, Exception):
            raise answer
        yield probe, answer
    if worker is not None:
        worker[0].kill()
        worker[0].join()


def _started(
    target: str, what: Callable[[str, Probe], Answer]
) -> tuple[multiprocessing.process.BaseProcess, multiprocessing.connection.Connection]:
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_serve, args=(theirs, target, what), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _serve(pipe: multiprocessing.connection.Connection, target: str, what: Callable[[str, Probe], Answer]) -> None:
    children.die_with_parent()
    while True:
        try:
            probe = pipe.recv()
        except EOFError:
            return
        try:
            answer: Answer | AttnExportError = what(target, probe)
        except AttnExportError as error:
            answer = error
        except Exception as error:  # converters and runtimes may raise anything; that is their answer
            answer = said("refused", f"{type(error).__name__}: {first_line(error)}")
        pipe.send(answer)
