"""Probes through a compiler for a chip that is not here, and through the maker's simulator where there is one."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attn_export.bundle import SNR
from attn_export.deploy_tests import backends
from attn_export.deploy_tests.backends.ethos_u import vela
from attn_export.deploy_tests.backends.ethos_u import worker as ethos_worker
from attn_export.deploy_tests.backends.qnn import backend as qnn
from attn_export.deploy_tests.backends.qnn import chips
from attn_export.deploy_tests.backends.qnn import worker as qnn_worker
from attn_export.deploy_tests.backends.rknn import environment
from attn_export.deploy_tests.backends.rknn import worker as rknn_worker
from attn_export.deploy_tests.backends.rknn.layers import layers
from attn_export.deploy_tests.compiling import child
from attn_export.deploy_tests.parity import simulated
from attn_export.errors import AttnExportError
from attn_export.export.converters import CONVERTERS, Source
from attn_export.export.onnx.save import save
from attn_export.process import children
from attn_export.types import JsonDict
from benchmarks.probes import torch_node
from benchmarks.probes.answer import TAKEN, Answer, said
from benchmarks.probes.probe import Probe, amid, inside

#: Seconds that one probe may take.
LIMIT = 60.0
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Compiler:
    """How probes go through one compiler.

    Attributes:
        worker: the module that builds.
        request: what it needs to know of every model.
        placed: reads from a folder and its result who runs the node: nothing where the accelerator does, else why not.
        outputs: the simulator's file; empty where there is none.
        python: whose interpreter; None for this one.
    """

    worker: str
    request: JsonDict
    placed: Callable[[Path, JsonDict], str]
    outputs: str = ""
    python: Callable[[], Path | None] = lambda: None


#: What stands around a node that is asked about between others.
AROUND = ("Cast", "Reshape")


def _left(ops: Sequence[str]) -> str:
    counted = [op for op in ops if op not in AROUND] or list(ops)
    return f"{', '.join(dict.fromkeys(counted))} stays on the CPU" if counted else ""


def _by_qnn(folder: Path, result: JsonDict) -> str:  # noqa: ARG001  # as the others
    return _left([node["op"] for node in result["cpu"]])


def _by_rknn(folder: Path, result: JsonDict) -> str:  # noqa: ARG001  # as the others
    return _left([layer.op for layer in layers(child.said(folder)) if layer.target != "NPU"])


def _by_vela(folder: Path, result: JsonDict) -> str:  # noqa: ARG001  # as the others
    (table,) = (folder / ethos_worker.OUT).glob("*_per-layer.csv")
    _, left = vela.operators(table, child.said(folder))
    return "; ".join(f"{node.op} stays on the CPU{f': {node.reason}' if node.reason else ''}" for node in left)


COMPILERS = {
    "qnn": Compiler(
        qnn_worker.__name__,
        {"soc_model": chips.CHIPS["sm8650"], "precision": "float16", "settings": qnn.SETTINGS, "calibration": 0},
        _by_qnn,
        qnn_worker.SIMULATED,
    ),
    "rknn": Compiler(
        rknn_worker.__name__,
        {"chip": "rk3588", "precision": "float16", "calibration": 0},
        _by_rknn,
        rknn_worker.SIMULATED,
        environment.python,
    ),
    "ethos-u": Compiler(ethos_worker.__name__, {"chip": "ethos-u85-256"}, _by_vela),
}
#: What is compiled for, and in what.
MEANS = {"qnn": "SM8650, float16", "rknn": "RK3588, float16", "ethos-u": "Ethos-U85-256, int8"}


def versions(target: str) -> dict[str, str]:
    """Name the compiler and what it compiled for."""
    return {"compiler": backends.BACKENDS[target.replace("-", "_")].version(), "for": MEANS[target]}


def answers(target: str, probes: Sequence[Probe]) -> Iterator[tuple[Probe, Answer]]:
    """Build all probes, and those that are not taken once more between others, and read what came."""
    first = dict(zip(map(id, probes), _asked(target, probes), strict=True))
    again: dict[int, Probe] = {}
    if COMPILERS[target].outputs:
        for probe in probes:
            kind = first[id(probe)].kind
            between = inside(probe) if kind != "taken" else None
            if between is None and kind == "cpu":
                between = amid(probe)
            if between is not None:
                again[id(probe)] = between
    second = dict(zip(again, _asked(target, list(again.values())), strict=True))
    for probe in probes:
        yield probe, second.get(id(probe), first[id(probe)])


def _asked(target: str, probes: Sequence[Probe]) -> list[Answer]:
    """Build all probes, and read what came; a process that dies or does not end is an answer, too."""
    how = COMPILERS[target]
    with tempfile.TemporaryDirectory(prefix="attn-export-probes-") as temporary:
        places = {Path(temporary, str(index)): probe for index, probe in enumerate(probes)}
        refused = dict[Path, Answer]()
        for place, probe in places.items():
            place.mkdir()
            try:
                _laid_out(place, probe, how)
            except torch_node.NoWordError as error:
                refused[place] = said("unknown", str(error))
            except AttnExportError as error:
                refused[place] = said("refused", str(error))
        left = [place for place in places if place not in refused]
        ends = _build(how, left, Path(temporary, "list"))
        return [
            refused.get(place) or _answer(how, place, probe, ends.get(place, "")) for place, probe in places.items()
        ]


def _laid_out(place: Path, probe: Probe, how: Compiler) -> None:
    if how.outputs:
        model = place / "model.onnx"
        save(probe.exported.model, model)
    else:
        source = Source(probe.exported, probe.case.inputs, lambda: torch_node.program(probe))
        one = CONVERTERS["litert"].convert(source)
        model = place / "given.tflite"
        model.write_bytes(next(iter(one.files.values())))
    request = {**how.request, "model": str(model), "shapes": {k: list(v.shape) for k, v in probe.case.inputs.items()}}
    (place / child.REQUEST).write_text(json.dumps(request), encoding="utf-8")
    child.save(place / child.FEEDS, [probe.case.inputs])


def _build(how: Compiler, places: Sequence[Path], names: Path) -> dict[Path, str]:
    """Build in all folders, and say of those without a result how their process ended."""
    ends = dict[Path, str]()
    names.write_text("\n".join(map(str, places)), encoding="utf-8")
    env = {"PYTHONPATH": str(ROOT)}
    while True:
        open_ = [p for p in places if not (p / child.RESULT).exists() and p not in ends]
        if not open_:
            return ends
        process = children.start(
            "benchmarks.probes.batch", how.worker, str(names), python=how.python(), env=env, stdin=subprocess.DEVNULL
        )
        at, since = open_[0], time.monotonic()
        late = False
        while process.poll() is None:
            time.sleep(0.2)
            now = next((p for p in open_ if not (p / child.RESULT).exists()), None)
            if now is None or now != at:
                at, since = now or at, time.monotonic()
            elif time.monotonic() - since > LIMIT:
                late = True
                process.kill()
                process.wait()
        begun = [p for p in open_ if (p / child.SAID).exists() and not (p / child.RESULT).exists()]
        died = f"its process ended: {children.ending(process.returncode)}"
        how_ended = f"it did not end within {LIMIT:g} s" if late else died
        if not begun:
            ends |= dict.fromkeys([p for p in open_ if not (p / child.RESULT).exists()], f"not tried: {how_ended}")
        ends |= dict.fromkeys(begun, how_ended)


def _answer(how: Compiler, place: Path, probe: Probe, end: str) -> Answer:
    if end:
        return said("unknown" if end.startswith("not tried") else "refused", end)
    result: JsonDict = json.loads((place / child.RESULT).read_text(encoding="utf-8"))
    if not result["ok"]:
        why = "; ".join(c["reason"] for c in result["complaints"]) or result["what"]
        left = "takes no node" in result["what"]
        return said("cpu" if left else "refused", "it stays on the CPU" if left else why)
    try:
        if why := how.placed(place, result):
            return said("cpu", why)
    except ValueError as error:
        return said("unknown", str(error))
    return _judged(how, place, probe, result)


def _judged(how: Compiler, place: Path, probe: Probe, result: JsonDict) -> Answer:
    if not how.outputs:
        return TAKEN
    came: list[dict[str, Any]] = child.load(place / how.outputs)
    if not came:
        broken = "; ".join(result["warnings"]) or "the simulator gave nothing"
        return said("unknown", f"it is taken, and nothing is known of what it computes: {broken}")
    verdict = simulated.judge([probe.case], came)
    if verdict is None or verdict.failure:
        return said("wrong", f"on the simulator, {verdict.failure if verdict else 'nothing came'}")
    if verdict.snr_db is not None and verdict.snr_db < SNR["float16"]:
        return said("wrong", f"on the simulator, {verdict.snr_db:.0f} dB where {SNR['float16']:.0f} dB is expected")
    return TAKEN
