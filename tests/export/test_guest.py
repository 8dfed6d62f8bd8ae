"""Code of the user's: what lies beside it hides no library, and whatever it does to end us is one sentence."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from attn_export.errors import SubjectError, UsageError
from attn_export.export import reference
from attn_export.export.input_shapes import inputs_of
from attn_export.export.sources import user_code
from attn_export.export.subject import Subject

LIBRARIES = ("numpy", "onnx", "torch", "typing", "onnxruntime", "sitecustomize", "json")
NET = (
    "import torch\n\nimport helper_of_the_user\n\n\nclass Net(torch.nn.Linear):\n    size = helper_of_the_user.SIZE\n\n"
)
NET += "    def __init__(self):\n        super().__init__(self.size, 4)\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which every library has a double that leaves a marker."""
    for name in LIBRARIES:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'PWNED')!r}, 'w').write({name!r})\n")
    (tmp_path / "helper_of_the_user.py").write_text("SIZE = 3\n")
    (tmp_path / "net_of_the_user.py").write_text(NET)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if "of_the_user" in name:
            del sys.modules[name]


@pytest.mark.parametrize("source", ["net_of_the_user.py", "net_of_the_user"])
def test_a_double_of_a_library_is_never_found(source: str, folder: Path) -> None:
    subject = user_code.from_code(f"{source}:Net", ["1x3"])
    assert isinstance(subject.module, nn.Linear)
    assert sys.path[-1] == str(folder), "after everything that is installed"
    assert sys.path.count(str(folder)) == 1
    for name in LIBRARIES[:5]:
        known = sys.modules.pop(name, None) if name == "onnxruntime" else None
        found = importlib.util.find_spec(name)
        if known is not None:
            sys.modules[name] = known
        assert found is not None
        assert found.origin is None or not Path(found.origin).is_relative_to(folder)
    assert not (folder / "PWNED").exists()


def test_a_file_called_as_a_library_takes_no_name_away(folder: Path) -> None:
    (folder / "json.py").write_text("import torch\n\n\nclass Net(torch.nn.ReLU):\n    pass\n")
    before = sys.modules["json"]
    subject = user_code.from_code("json.py:Net", ["1x3"])
    assert isinstance(subject.module, nn.ReLU)
    assert sys.modules["json"] is before


ENDS = {
    "raise SystemExit(7)": "SystemExit: 7",
    "import sys; sys.exit()": "SystemExit: no message",
    "class Odd(BaseException): pass\nraise Odd('x')": "Odd: x",
    "class Odd(Exception):\n def __str__(self): raise ValueError\nraise Odd": "Odd: no message",
    "def f(): f()\nf()": "RecursionError",
    "raise ValueError('a\\nb')": "ValueError: a",
    "def :": "SyntaxError",
}


@pytest.mark.parametrize("text", ENDS)
def test_however_an_import_ends_it_is_one_sentence(text: str, folder: Path) -> None:
    (folder / "ends_of_the_user.py").write_text(text)
    with pytest.raises(SubjectError) as said:
        user_code.from_code("ends_of_the_user.py:Net", ["1x3"])
    assert f"ends_of_the_user.py cannot be imported: {ENDS[text]}" in str(said.value)
    assert "\n" not in str(said.value)


def test_an_interruption_is_no_fault_of_the_module(folder: Path) -> None:
    (folder / "ends_of_the_user.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        user_code.from_code("ends_of_the_user.py:Net", ["1x3"])


class Quits(nn.Module):
    def forward(self, x: object) -> None:
        raise SystemExit(0)


def test_a_network_that_quits_does_not_end_the_run() -> None:
    with pytest.raises(SubjectError, match="Quits does not run on x:1x3: SystemExit: 0"):
        reference.cases(Subject("q", Quits(), *inputs_of(["x:1x3"], [])))


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (["1x" * 600 + "1"], "got 1201 letters"),
        (["65536x65536"], "at most 64 and 2³¹"),
        (["x".join(["1"] * 65)], "65 axes"),
        (["9" * 30], "expected"),
        (["1x²"], "expected"),
        (["1x٣"], "expected"),
        (["x:1x3", "x:1x4"], "describes 'x' twice"),
        (["b=2x3", "y:b=4x3"], "one dimension has one size"),
        (["b=2xb=3"], "has two sizes"),
    ],
)
def test_sizes_that_are_typed_have_limits(texts: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        inputs_of(texts, [])


def test_one_dimension_may_stand_twice() -> None:
    items, sizes = inputs_of(["h=8xh=8", "y:h=8"], ["x"])
    assert [item.shape for item in items] == [("h", "h"), ("h",)]
    assert sizes == {"h": 8}
