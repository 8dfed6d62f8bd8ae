"""A bundle says no more than it holds: limits on what it claims, whoever wrote it and however right its hashes are."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from attn_export import bundle
from attn_export.bundle import Case
from attn_export.deploy_tests.parity.compare import compare, prove
from attn_export.deploy_tests.parity.verify import verify
from attn_export.errors import BundleError, InconclusiveError
from attn_export.types import Array, TensorSpec
from tests.artifacts import onnx as onnx_artifact
from tests.tools.run import run

ONES = np.ones((1, 2), np.float32)


def model(factor: float, path: Path) -> None:
    """y = factor · x."""
    ports = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 2]) for name in "xy")
    weight = helper.make_tensor("w", TensorProto.FLOAT, [], [factor])
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "g", *([p] for p in ports), [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def made(
    target: Path,
    *,
    factor: float = 2.0,
    cases: Mapping[str, tuple[Array, Any]] | None = None,
    more: Any = None,
    **changes: object,
) -> Path:
    """A bundle that claims to be 2 · x, with all hashes right.

    ``cases`` by name: reference and float32 error; ``more``: arrays.
    """
    target.mkdir()
    model(factor, target / bundle.MODEL)
    chosen = cases or {"a": (2.0 * ONES.astype("f8"), 1e-7)}
    arrays: dict[str, Array] = {"names": np.array(list(chosen))}
    for index, (reference, stray) in enumerate(chosen.values()):
        arrays |= {
            f"{index}.input.x": ONES,
            f"{index}.reference.y": reference,
            f"{index}.float32_error.y": np.asarray(stray),
            f"{index}.slice_error.1.y": np.full(2, np.asarray(stray, "f8") / 2**0.5),
        } | (more or {})
    np.savez(target / bundle.CASES, **arrays)  # type: ignore[arg-type]
    port = {"name": "x", "dtype": "float32", "shape": ["b", 2]}
    content = {
        "subject": {"name": "two"},
        "inputs": [port],
        "outputs": [{**port, "name": "y"}],
        "dynamic_dims": [{"name": "b"}],
        "artifacts": [onnx_artifact()],
    }
    bundle.write_manifest(target, {**content, **changes})
    return target


@pytest.mark.parametrize(
    ("forged", "why"),
    [
        ({"0.slice_error.0.y": np.zeros(1)}, "along 1, got [0, 1]"),
        ({"0.slice_error.1.y": np.zeros(3)}, "expected 2 float32 errors along axis 1"),
        ({"0.slice_error.1.y": np.zeros(2, "i8")}, "expected 2 float32 errors along axis 1"),
        ({"0.slice_error.1.y": np.array([0.0, 1.1e-7])}, "is not between 0 and 1e-07"),
        ({"0.slice_error.1.y": np.array([0.0, -1e-9])}, "is not between 0 and 1e-07"),
        ({"0.slice_error.1.y": np.array([0.0, np.nan])}, "is not between 0 and 1e-07"),
        ({"0.slice_error.1.z": np.zeros(2)}, "which is no output"),
    ],
)
def test_the_float32_errors_of_slices_are_held_to_the_whole(tmp_path: Path, forged: Any, why: str) -> None:
    came = run("verify", made(tmp_path / "two", more=forged))
    assert came.code == 3
    assert why in came.err


def test_an_honest_one_is_proven(tmp_path: Path) -> None:
    assert run("verify", made(tmp_path / "two")).code == 0


def as_text(path: Path, number: str) -> None:
    """A number as no writer of ours would put it."""
    file = path / bundle.MANIFEST
    file.write_text(file.read_text().replace("4.0", number, 1))


REFERENCE = 2.0 * ONES.astype("f8")
#: A model of zeros that claims to be 2 · x, by what it brings to be measured by.
ATTACKS: dict[str, Callable[[Path], object]] = {
    "k = 1e30": lambda p: made(p, factor=0, artifacts=[onnx_artifact(normalized_limit=1e30)]),
    "k = Infinity": lambda p: as_text(made(p, factor=0), "Infinity"),
    "k = 1e999": lambda p: as_text(made(p, factor=0), "1e999"),
    "k = NaN": lambda p: as_text(made(p, factor=0), "NaN"),
    "k a little more": lambda p: made(p, factor=0, artifacts=[onnx_artifact(normalized_limit=4.001)]),
    "k = 0": lambda p: made(p, factor=0, artifacts=[onnx_artifact(normalized_limit=0)]),
    "k < 0": lambda p: made(p, factor=0, artifacts=[onnx_artifact(normalized_limit=-4.0)]),
    "k = true": lambda p: made(p, factor=0, artifacts=[onnx_artifact(normalized_limit=True)]),
    "snr = -1e9": lambda p: made(
        p,
        factor=0,
        artifacts=[onnx_artifact("float16", snr_db_limit=-1e9)],
    ),
    "snr for float32": lambda p: made(p, factor=0, artifacts=[onnx_artifact(snr_db_limit=1.0)]),
    "float16 below its class": lambda p: made(
        p,
        factor=1.9,
        artifacts=[onnx_artifact("float16", snr_db_limit=20.0)],
    ),
    "bfloat16 below its class": lambda p: made(
        p,
        factor=0,
        artifacts=[onnx_artifact("bfloat16", snr_db_limit=19.9)],
    ),
    "int8 at 0 dB": lambda p: made(
        p,
        factor=0,
        artifacts=[onnx_artifact("int8", snr_db_limit=0.0)],
    ),
    "a float32 error of infinity": lambda p: made(p, factor=0, cases={"a": (REFERENCE, np.inf)}),
    "a float32 error of NaN": lambda p: made(p, factor=0, cases={"a": (REFERENCE, np.nan)}),
    "a long float32 error": lambda p: made(p, factor=0, cases={"a": (REFERENCE, 1e10)}),
    "a float32 error of a hundredth and more": lambda p: made(
        p, factor=1.96, cases={"a": (REFERENCE, 0.0101 * 8**0.5)}
    ),
    "a negative float32 error": lambda p: made(p, factor=0, cases={"a": (REFERENCE, -1.0)}),
    "a float32 error of two numbers": lambda p: made(p, factor=0, cases={"a": (REFERENCE, [1.0, 1.0])}),
    "a float32 error of text": lambda p: made(p, factor=0, cases={"a": (REFERENCE, "1")}),
    "a float32 error where the reference is zero": lambda p: made(p, factor=0, cases={"a": (0 * REFERENCE, 1e-9)}),
    "a reference of text": lambda p: made(p, factor=0, cases={"a": (np.array([["a", "b"]]), 0.0)}),
    "a reference that is complex": lambda p: made(p, factor=0, cases={"a": (REFERENCE * 1j, 0.0)}),
    "a reference beyond computing": lambda p: made(p, factor=0, cases={"a": (REFERENCE * 1e200, 0.0)}),
    "a field that nobody knows": lambda p: made(p, passed=True),
}


@pytest.mark.parametrize("what", ATTACKS)
def test_what_no_honest_bundle_claims_is_not_read(what: str, tmp_path: Path) -> None:
    ATTACKS[what](tmp_path / "two")
    done = run("verify", tmp_path / "two")
    assert done.code == 3, (done.out, done.err)
    assert "parity holds" not in done.out
    assert len(done.err.strip().splitlines()) == 1
    assert done.err.startswith("error: ")


@pytest.mark.parametrize(
    ("reference", "factor", "code"),
    [
        (0 * REFERENCE, 0.0, 5),
        (REFERENCE * np.nan, 0.0, 5),
        (REFERENCE * np.inf, 0.0, 5),
        (REFERENCE * [[1, np.inf]], 1e300, 1),  # an infinity beside it once granted any error
        (REFERENCE, 0.0, 1),
        (REFERENCE, 1.95, 1),
    ],
)
def test_a_model_of_zeros_and_a_truth_of_nothing(reference: Array, factor: float, code: int, tmp_path: Path) -> None:
    done = run("verify", made(tmp_path / "two", factor=min(factor, 3e38), cases={"a": (reference, 0.0)}))
    assert done.code == code, (done.out, done.err)
    assert "parity holds" not in done.out


def test_an_output_that_is_zero_everywhere_is_said_and_one_that_moves_is_enough(tmp_path: Path) -> None:
    target = made(tmp_path / "two", cases={"dead": (REFERENCE, 0.0), "b": (REFERENCE, 0.0)})
    assert "warning" not in run("verify", target).out
    case = Case("a", {"x": ONES}, {"y": REFERENCE, "z": 0 * REFERENCE}, {"y": 0.0, "z": 0.0})
    ports = [TensorSpec(name, "float32", ("b", 2)) for name in "yz"]
    assert bundle.idle([case], ports) == ("z",)
    assert bundle.idle([case, Case("b", {}, {"y": 0 * REFERENCE, "z": REFERENCE}, {})], ports) == ()
    assert bundle.idle([], ports) == ("y", "z")
    double = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"]), helper.make_node("Sub", ["x", "x"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 2])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 2]) for name in "yz"],
        [helper.make_tensor("w", TensorProto.FLOAT, [], [2.0])],
    )
    both = tmp_path / "both"
    both.mkdir()
    onnx.save(
        helper.make_model(double, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), both / "model.onnx"
    )
    bundle.write_cases(both / bundle.CASES, (case,))
    content = json.loads((target / bundle.MANIFEST).read_text())
    outputs = [{**content["outputs"][0], "name": name} for name in "yz"]
    bundle.write_manifest(both, {**content, "outputs": outputs})
    done = run("verify", both)
    assert done.code == 0, done.err
    assert "warning: the reference of z is zero in every case, so this says nothing about it" in done.out


def test_the_main_job_does_not_go_on_with_a_float32_error_that_nobody_would_believe() -> None:
    bundle.refuse_loose([Case("a", {}, {"y": REFERENCE}, {"y": 0.009 * 8**0.5})])
    with pytest.raises(InconclusiveError, match=r"case 'a': the float32 error of 'y' is 0.0286, 0.01 of its norm"):
        bundle.refuse_loose([Case("a", {}, {"y": REFERENCE}, {"y": 0.0101 * 8**0.5})])


def test_zeros_never_pass_whatever_may_be_read() -> None:
    """The share and k together: an honest reader's bound is a twenty-fifth of the reference at most."""
    assert bundle.SHARE * bundle.TOLERANCE < 0.05
    case = Case("a", {"x": ONES}, {"y": REFERENCE}, {"y": bundle.SHARE * 8**0.5})
    assert compare(0 * ONES, case, TensorSpec("y", "float32", ("b", 2)), bundle.TOLERANCE).normalized_error >= 99


@pytest.mark.parametrize("odd", [np.inf, -np.inf, np.nan])
def test_an_infinity_in_the_truth_grants_nothing_to_the_rest(odd: float) -> None:
    port = TensorSpec("y", "float32", ("b", 2))
    case = Case("a", {"x": ONES}, {"y": np.array([[2.0, odd]])}, {"y": 0.0})
    right, wrong = (np.array([[value, odd]], "f4") for value in (2, 2.1))
    assert compare(right, case, port, bundle.TOLERANCE).normalized_error == 0
    assert compare(wrong, case, port, bundle.TOLERANCE).normalized_error > 1e4


@pytest.mark.parametrize(
    ("reference", "came", "ok"),
    [(0.0, 0.0, True), (0.0, 1e-20, False), (2.0, 2.0, True), (2.0, 0.0, False)],
)
def test_a_ratio_to_no_signal_is_not_endless(reference: float, came: float, ok: bool) -> None:
    port = TensorSpec("y", "float32", ("b", 2))
    case = Case("a", {"x": ONES}, {"y": reference * ONES.astype("f8")}, {"y": 0.0})
    parity = prove(lambda feeds: {"y": came * ONES}, [case], [port], backend="", snr=40.0)
    assert parity.ok is ok


def test_the_user_may_ask_for_another_limit_and_it_is_said(tmp_path: Path) -> None:
    off = made(tmp_path / "two", factor=2.00001)
    assert run("verify", off).code == 1
    done = run("verify", off, "--tolerance", "40")
    assert done.code == 0, done.err
    assert "required: k <= 40, from the command line; the bundle says k <= 4" in done.out
    assert "(limit 40x)" in done.out
    done = run("verify", off, "--snr", "60", "--json")
    assert done.code == 0, done.err
    assert done.json["asked"] == {"tolerance": None, "snr": 60.0}
    assert run("verify", off, "--snr", "60").out.startswith(
        "required signal-to-noise ratio: 60 dB, from the command line; the bundle says k <= 4"
    )
    assert run("verify", off, "--tolerance", "0.5").code == 1
    assert run("verify", off, "--snr", "140").code == 1
    for value in ("0", "-1", "inf", "nan"):
        for option in ("--tolerance", "--snr"):
            done = run("verify", off, option, value)
            assert (done.code, "expected a finite number above zero" in done.err) == (2, True)


CUTS: dict[str, Callable[[dict[str, Array]], object]] = {
    "an input is missing": lambda a: a.pop("0.input.x"),
    "a reference is missing": lambda a: a.pop("0.reference.y"),
    "a float32 error is missing": lambda a: a.pop("0.float32_error.y"),
    "a float32 error too many": lambda a: a.update({"0.float32_error.z": np.asarray(0.0)}),
    "an input too many": lambda a: a.update({"0.input.z": ONES}),
    "a case too many": lambda a: a.update({"1.input.x": ONES}),
    "a case of no number": lambda a: a.update({"-1.input.x": ONES}),
    "another key": lambda a: a.update({"weights": ONES}),
    "another type": lambda a: a.update({"0.input.x": ONES.astype("f8")}),
    "another rank": lambda a: a.update({"0.input.x": ONES[0]}),
    "another size": lambda a: a.update({"0.input.x": np.ones((1, 3), "f4")}),
    "a reference of another rank": lambda a: a.update({"0.reference.y": REFERENCE[None]}),
    "no names": lambda a: a.pop("names"),
    "names that are numbers": lambda a: a.update(names=np.array([1])),
    "names in two rows": lambda a: a.update(names=np.array([["a"]])),
    "other names": lambda a: a.update(names=np.array(["b"])),
    "a name more": lambda a: a.update(names=np.array(["a", "b"])),
    "objects": lambda a: a.update({"0.input.x": np.array([[object(), 1]])}),
}


@pytest.mark.parametrize("what", CUTS)
def test_cases_that_do_not_fit_the_model_are_not_read(what: str, tmp_path: Path) -> None:
    target = made(tmp_path / "two")
    content = json.loads((target / bundle.MANIFEST).read_text())
    with np.load(target / bundle.CASES) as archive:
        arrays = dict(archive)
    CUTS[what](arrays)
    np.savez(target / bundle.CASES, **arrays)  # type: ignore[arg-type]
    content["files"][bundle.CASES] = bundle.sha256(target / bundle.CASES)
    (target / bundle.MANIFEST).write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"cases\.npz"):
        bundle.read(target)


def test_weights_beside_the_model_are_listed_or_refused(tmp_path: Path) -> None:
    """ONNX Runtime would read them whatever the manifest says."""
    target = made(tmp_path / "two")
    content = json.loads((target / bundle.MANIFEST).read_text())
    weights = target / "model.onnx.data"
    weights.write_bytes(np.array([2.0], "f4").tobytes())
    graph = onnx.load(target / bundle.MODEL)
    tensor = graph.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", weights.name), ("offset", "0"), ("length", "4")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    onnx.save(graph, target / bundle.MODEL)
    bundle.write_manifest(target, content)
    assert run("verify", target).code == 0
    weights.write_bytes(np.array([3.0], "f4").tobytes())
    assert "was altered" in run("verify", target).err
    content["files"] = {name: bundle.sha256(target / name) for name in (bundle.MODEL, bundle.CASES)}
    (target / bundle.MANIFEST).write_text(json.dumps({**content, "cases": ["a"]}))
    done = run("verify", target)
    assert (done.code, "'model.onnx.data', which its manifest does not list" in done.err) == (3, True)
    weights.unlink()
    weights.symlink_to("/etc/hostname")
    assert "is a link" in run("verify", target).err


def test_the_digest_is_held(tmp_path: Path) -> None:
    target = made(tmp_path / "two")
    digest = bundle.digest(target)
    assert bundle.read(target).digest == digest
    assert run("verify", target, "--expect", digest).out.startswith(f"its digest is {digest}, as expected")
    assert run("verify", target, "--expect", digest.upper().replace("SHA256:", "")).code == 0
    assert run("verify", target, "--json").json["digest"] == digest
    done = run("verify", target, "--expect", f"sha256:{64 * '0'}")
    assert (done.code, done.out) == (1, "")
    assert f"is a different bundle: expected sha256:{64 * '0'}, got {digest}" in done.err
    for wrong in ("", "sha256:", digest[:-1], f"{digest}0", f"md5:{digest[7:]}", "sha256:" + 64 * "g"):
        assert run("verify", target, "--expect", wrong).code == 2
    file = target / bundle.MANIFEST
    file.write_text(file.read_text() + " ")
    assert run("verify", target, "--expect", digest).code == 1, "every byte counts"


def test_verify_of_another_precision_is_held_to_its_class(tmp_path: Path) -> None:
    artifacts = [onnx_artifact("float16", snr_db_limit=40.0)]
    whole = bundle.read(made(tmp_path / "two", factor=2.001, artifacts=artifacts))
    assert (whole.artifacts[0].precision, whole.artifacts[0].snr_db_limit) == ("float16", 40.0)
    parity = verify(whole, "onnxruntime")
    assert parity.ok
    assert math.isclose(parity.worst.snr_db, 66, abs_tol=0.1)
