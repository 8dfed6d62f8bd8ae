"""The pytest plugin in somebody else's test suite: figures in the JUnit file, failures that are failures."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

TESTS = """
import onnx
import pytest
import torch
from torch import nn

import attn_export as ax


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()


X = torch.randn(1, 3, 8, 8)


@pytest.fixture(scope="session", autouse=True)
def bundle():
    ax.deploy(net(0), (X,), output="net", bench=False, mutants="none")


def test_right(assert_parity):
    assert assert_parity(net(0), "net/model.onnx", (X,)).ok


def test_wrong(assert_parity):
    assert_parity(net(1), "net/model.onnx", (X,))


@pytest.mark.attn_parity(atol=1e-30)
def test_the_marker_sets_defaults(assert_parity):
    with pytest.raises(ax.ParityError, match="outside atol 1e-30"):
        assert_parity(net(0), "net/model.onnx", (X,))


@pytest.mark.attn_bundle("net")
def test_bundle(verified_bundle):
    assert verified_bundle.ok


def test_no_marker(verified_bundle):
    raise SystemExit("never reached")
"""


def test_it_serves_a_suite_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "test_net.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    plugin = [] if _is_installed() else ["-p", "attn_export.pytest_plugin"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin, "--junitxml=out.xml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "3 passed" in done.stdout, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    assert "1 error" in done.stdout
    cases = {case.get("name"): case for case in ET.parse(tmp_path / "out.xml").iter("testcase")}
    told = {name: {p.get("name"): p.get("value") for p in case.iter("property")} for name, case in cases.items()}
    assert told["test_right"]["attn_export.parity"] == "passed"
    assert told["test_wrong"]["attn_export.parity"] == "failed"
    assert "noise floor" in str(told["test_wrong"]["attn_export.summary"])
    assert cases["test_wrong"].find("failure") is not None
    assert "expected @pytest.mark.attn_bundle" in str(ET.tostring(cases["test_no_marker"]))


def _is_installed() -> bool:
    from importlib.metadata import entry_points

    return any(point.value == "attn_export.pytest_plugin" for point in entry_points(group="pytest11"))
