"""``targets``: what the registries hold, looked up and not loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from attn_export.deploy_tests import backends
from attn_export.export.converters import CONVERTERS
from attn_export.export.lint import RULES
from attn_export.tools.commands import targets
from tests.tools.run import run

HEAVY = {"torch", "onnx", "onnxruntime", "openvino", "litert_torch", "ai_edge_litert", "executorch"}


def found() -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in run("targets", "--json").json["targets"]}


def test_every_entry_of_every_registry_is_there() -> None:
    rows = found()
    assert sorted(rows) == sorted({*backends.BACKENDS, *CONVERTERS, *RULES})
    assert {name for name, row in rows.items() if row["converts"] is not None} == set(CONVERTERS)
    assert {name for name, row in rows.items() if row["compiles"] is not None} == set(backends.compilers())
    assert {name for name, row in rows.items() if row["lint"]} == set(RULES)


@pytest.mark.parametrize("name", list(CONVERTERS))
def test_what_is_looked_up_of_a_converter_is_what_it_says_itself(name: str) -> None:
    own = CONVERTERS[name].missing()
    assert found()[name]["converts"] is (own is None), own


def test_what_runs_here_is_e2_and_what_is_missing_is_said() -> None:
    rows = found()
    assert (rows["onnxruntime"]["evidence"], rows["onnxruntime"]["needs"]) == ("E2", [])
    assert rows["onnxruntime"]["installed"]["onnxruntime"]
    assert (rows["ort"]["runs"], rows["ort"]["converts"], rows["ort"]["evidence"]) == (True, True, "E2")
    assert rows["ort_mobile"]["evidence"] == "", "rules alone are no evidence"
    for name, row in rows.items():
        assert row["runs"] is not False or row["needs"], name


@pytest.mark.parametrize(
    ("runs", "compiles", "simulates", "level"),
    [
        (True, True, True, "E2"),
        (False, True, False, "E1"),
        (False, True, True, "E1, simulated"),
        (False, False, True, "E0"),
    ],
)
def test_the_level_is_the_best_that_can_be_had(runs: bool, compiles: bool, simulates: bool, level: str) -> None:
    assert targets._evidence(runs=runs, compiles=compiles, simulates=simulates) == level


def test_an_emulated_processor_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTN_EXPORT_EMULATED", "qemu")
    assert targets._evidence(runs=True, compiles=False, simulates=False) == "E2, emulated"


def test_people_get_a_table_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(targets.EXTRAS, "no_such_package", "ort")
    done = run("targets")
    assert done.code == 0
    assert "no_such_package" in done.out
    assert "attn-export[ort]" in done.out
    assert "attn-export targets" in run("doctor").out


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import json, sys; from attn_export.tools.commands.targets import targets; targets();"
        f"print(json.dumps(sorted({HEAVY} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, json.loads(done.stdout or "null")) == (0, []), done.stderr
