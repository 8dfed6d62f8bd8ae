"""An emulated processor is told from a real one, and no time from it is taken or believed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from attn_export import bundle
from attn_export.bundle import figures
from attn_export.deploy_tests.conformance import kit
from attn_export.deploy_tests.latency.comparison import compare_latency
from attn_export.deploy_tests.latency.measure import Protocol, measure_latency
from attn_export.deploy_tests.machine import environment
from attn_export.deploy_tests.machine.emulated import VARIABLE, emulated, refuse_to_measure
from attn_export.deploy_tests.measurement import measure_bundle
from attn_export.errors import BundleError, InconclusiveError, UsageError
from tests.deploy_tests.test_conformance import QUICK, made, rehash, write


def laid_out(root: Path, kernel: str | None, runs: str, claims: str) -> Path:
    """What /proc says: what the kernel was built for, what one task runs, and what the process claims to run."""
    for name in ("sys/kernel", "self", "thread-self"):
        (root / "proc" / name).mkdir(parents=True)
    if kernel is not None:
        (root / "proc/sys/kernel/arch").write_text(f"{kernel}\n")
    (root / "proc/thread-self/exe").symlink_to(runs)
    (root / "proc/self/exe").symlink_to(claims)
    return root


PYTHON, QEMU = "/usr/bin/python3.13", "/opt/x/qemu-aarch64"


@pytest.mark.parametrize(
    ("kernel", "machine", "runs", "said"),
    [
        ("x86_64", "x86_64", PYTHON, None),
        ("aarch64", "aarch64", PYTHON, None),
        ("x86_64", "i686", PYTHON, None),
        ("aarch64", "armv7l", PYTHON, None),
        ("riscv64", "riscv64", PYTHON, None),
        (None, "aarch64", PYTHON, None),
        ("x86_64", "aarch64", QEMU, "aarch64 on x86_64 by qemu-aarch64"),
        ("x86_64", "aarch64", PYTHON, "aarch64 on x86_64"),
        (None, "aarch64", QEMU, "aarch64 by qemu-aarch64"),
        ("aarch64", "riscv64", PYTHON, "riscv64 on aarch64"),
    ],
)
def test_the_kernel_below_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str | None, machine: str, runs: str, said: str | None
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert emulated(root=laid_out(tmp_path, kernel, runs, PYTHON), machine=machine) == said


def test_a_system_that_tells_nothing_is_believed_and_so_is_who_started_the_emulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert emulated(root=tmp_path) is None
    assert emulated() is None, "this test runs on a real processor"
    assert "emulated" not in environment.describe()
    refuse_to_measure()
    monkeypatch.setenv(VARIABLE, "aarch64 by hand")
    assert emulated(root=tmp_path) == "aarch64 by hand"
    assert environment.describe()["emulated"] == "aarch64 by hand"


@pytest.mark.parametrize(
    "measure",
    [
        lambda one: measure_bundle(bundle.read(one), "onnxruntime"),
        lambda one: compare_latency(one / bundle.MODEL, one / bundle.MODEL, one / bundle.CASES),
        lambda one: measure_latency(lambda _: {}, {}, threads=1, cold_start=0, protocol=Protocol(0, 1, 0, 1)),
        lambda one: kit.write_kit([], one.with_name("kit"), backend="onnxruntime", **QUICK),
    ],
    ids=["bundle", "comparison", "latency", "kit"],
)
def test_no_time_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measure: Callable[[Path], object]) -> None:
    one = write(tmp_path / "one")
    monkeypatch.setenv(VARIABLE, "aarch64 by hand")
    with pytest.raises(InconclusiveError, match=r"emulated processor \(aarch64 by hand\).*device itself"):
        measure(one)
    assert os.listdir(tmp_path) == ["one"]


def test_a_kit_that_says_so_is_no_kit(tmp_path: Path) -> None:
    _, out = made(tmp_path)
    content = json.loads((out / kit.MANIFEST).read_text())
    content["environment"]["emulated"] = "aarch64 by hand"
    (out / kit.MANIFEST).write_text(json.dumps(content))
    rehash(out)
    with pytest.raises(BundleError, match="emulated processor"):
        kit.check_kit(out)


def test_a_report_that_says_so_may_hold_parity_and_no_time() -> None:
    run = {"backend": "onnxruntime", "environment": {"emulated": "aarch64 by hand"}}
    report = {"schema_version": bundle.SCHEMA_VERSION, "runs": [run]}
    figures.check(report, "it")
    took = dict.fromkeys(("import_s", "open_s", "first_run_s", "cold_start_s"), 1.0)
    timed = {**run, "footprint": {**took, "peak_bytes": 1, "runtime_bytes": 1, "file_bytes": 1}}
    figures.check({**report, "runs": [{**timed, "environment": {}}]}, "it")
    with pytest.raises(UsageError, match="footprint of onnxruntime is from an emulated processor"):
        figures.check({**report, "runs": [timed]}, "it", UsageError)
