"""A matrix multiplies out to the jobs that it says, and a typing error never makes it a smaller one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from attn_export.errors import UnknownNameError, UsageError
from attn_export.pipeline.sweep import matrix
from attn_export.pipeline.sweep.job import BenchSettings, MeasureJob, Plan, SweepJob
from tests.tools.run import run

if sys.version_info < (3, 11):
    pytest.importorskip("tomli")

WHOLE = """
subjects = ["se", "repvgg:test"]
fuse = [false, true]
precisions = ["float32", "float16"]
targets = ["onnxruntime"]
devices = ["rack", "jetson-1"]
[device.jetson-1]
address = "ssh://me@jetson:2222"
[bench]
duration = 0.5
"""


def plan(tmp_path: Path, text: str) -> Plan:
    file = tmp_path / "matrix.toml"
    file.write_text(text)
    return matrix.read(file)


def test_it_multiplies_out(tmp_path: Path) -> None:
    made = plan(tmp_path, WHOLE)
    assert len(made.builds) == 2 * 2 * 2
    assert SweepJob("se", "test", fuse=True, precision="float16") in made.builds
    assert len(made.measures) == 8 * 2
    there = MeasureJob("se-test", "onnxruntime", "jetson-1", "ssh://me@jetson:2222", BenchSettings(duration=0.5))
    here = MeasureJob("se-test", "onnxruntime", "rack", "", BenchSettings(duration=0.5))
    assert {there, here} <= set(made.measures)
    labels = [job.label for job in made.jobs]
    assert len(set(labels)) == len(labels) == 24


@pytest.mark.parametrize(
    ("rule", "builds", "measures"),
    [
        ('device = "jetson-1"\nprecision = "float16"', 8, 12),
        ('subject = "rep*"', 4, 8),
        ("fuse = true\nprecision = 'float16'", 6, 12),
        ('target = "onnxruntime"\ndevice = ["rack", "jetson-*"]', 8, 0),
    ],
)
def test_what_is_excluded_is_left_out(tmp_path: Path, rule: str, builds: int, measures: int) -> None:
    made = plan(tmp_path, f"{WHOLE}[[exclude]]\n{rule}\n")
    assert (len(made.builds), len(made.measures)) == (builds, measures)


def test_a_pattern_takes_the_entries_that_have_the_preset(tmp_path: Path) -> None:
    assert {job.preset for job in plan(tmp_path, 'subjects = ["rep*:readme"]').builds} == {"readme"}
    both = plan(tmp_path, 'subjects = ["repvgg", "rep*"]').builds
    assert len([job for job in both if job.name == "repvgg"]) == 1, "what two subjects mean is made once"


def test_a_folder_is_a_bundle_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text("{}")
    made = plan(tmp_path, 'subjects = ["./mine"]\ntargets = ["onnxruntime"]')
    assert (made.builds, made.given) == ((), {"mine": tmp_path / "mine"})
    assert [job.label for job in made.measures] == ["mine@onnxruntime@local"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (WHOLE.replace("subjects", "subject"), "'subject'; did you mean 'subjects'"),
        (WHOLE.replace("duration", "durations"), r"\[bench\] of .*did you mean 'duration'"),
        (WHOLE.replace("address", "adress"), r"\[device.jetson-1\] of .*did you mean 'address'"),
        (WHOLE + "[[exclude]]\nprecisions = 'float16'\n", r"\[\[exclude\]\] of .*did you mean 'precision'"),
        (WHOLE.replace('"float16"', '"float17"'), "did you mean 'float16'"),
        (WHOLE.replace('"onnxruntime"', '"onnxruntim"'), "did you mean 'onnxruntime'"),
        (WHOLE.replace('"se"', '"triplett"'), "did you mean 'triplet'"),
        (WHOLE.replace('"se"', '"se:tests"'), "did you mean 'test'"),
        (WHOLE.replace("device.jetson-1", "device.jetson-2"), "did you mean 'jetson-1'"),
    ],
)
def test_the_nearest_name_is_said(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UnknownNameError, match=says):
        plan(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("subjects = 3", "subjects: expected a list, got int"),
        ("fuse = [true]", "subjects: is missing"),
        ("subjects = [", "cannot be read"),
        ('subjects = ["./none"]', "expected the folder of a bundle"),
        ('subjects = ["rep*:nowhere"]', "has a preset 'nowhere'"),
        (WHOLE.replace("ssh://me@jetson:2222", "jetson"), "expected an address such as ssh://"),
        (WHOLE.replace('"rack"', '"../rack"'), "expected a device's name"),
        (WHOLE + "[[exclude]]\nsubject = 'triplet:test'\n", "matches no combination: {'subject': 'triplet:test'}"),
        ('subjects = ["se"]\n[[exclude]]\nsubject = "*"', "nothing is left"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError) as error:
        plan(tmp_path, text)
    assert says in str(error.value)


def test_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(WHOLE.replace("jetson-1", "beside").replace('"rack"', '"rack-7"'))
    done = run("sweep", "--matrix", tmp_path / "m.toml", "-o", tmp_path / "out")
    assert done.code == 4, "this machine is no rack"
    assert "no worker offers device:rack-7 (8 jobs)" in done.err
    assert not (tmp_path / "out").exists(), "nothing was begun"
    assert run("sweep", "--matrix", tmp_path / "m.toml", "--family", "rep").code == 2
