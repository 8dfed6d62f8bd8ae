"""What code reads while it is loaded is seen, and looked at again; what cannot be seen makes it unknown."""

from __future__ import annotations

import ctypes
import importlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import attn_export
from attn_export.cache import house, needs
from attn_export.cache.needs import Needs
from attn_export.cache.watch import Watch

OWN = Path(attn_export.__file__).parent


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that modules are imported from; those of the test are forgotten afterwards."""
    known = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def seen(place: Path, code: str) -> Needs:
    """Import code as a module, and say what it needs."""
    (place / "net_of_test.py").write_text(code)
    watch = Watch()
    with watch.on():
        importlib.import_module("net_of_test")
    found = watch.needs(dict(sys.modules), OWN)
    assert isinstance(found, Needs), found
    assert found.changed() == ""
    return found


def test_a_module_and_what_it_imports(place: Path) -> None:
    (place / "helper_of_test.py").write_text("width = 3")
    found = seen(place, "import helper_of_test")
    assert {str(place / "net_of_test.py"), str(place / "helper_of_test.py")} <= found.files.keys()
    (place / "helper_of_test.py").write_text("width = 4")
    assert found.changed() == str(place / "helper_of_test.py")


def test_a_module_that_is_gone(place: Path) -> None:
    found = seen(place, "")
    (place / "net_of_test.py").unlink()
    assert found.changed() in (str(place), str(place / "net_of_test.py"))


def test_a_module_that_was_missing_and_comes(place: Path) -> None:
    found = seen(place, "try:\n    import fast_of_test\nexcept ImportError:\n    fast_of_test = None")
    (place / "notes.txt").write_text("no module")
    (place / "net_of_test-bundle").mkdir()
    (place / "bundle").mkdir()
    assert found.changed() == ""
    (place / "fast_of_test.py").write_text("")
    assert found.changed() == str(place)


@pytest.mark.parametrize(
    "reader",
    [
        "with open({file!r}) as file:\n    file.read()",
        "__import__('pathlib').Path({file!r}).read_bytes()",
        "__import__('numpy').fromfile({file!r}, 'u1')",
        "__import__('os').read(__import__('os').open({file!r}, 0), 9)",
    ],
)
def test_a_file_that_it_reads(reader: str, place: Path) -> None:
    file = place / "settings.yaml"
    file.write_text("width: 3")
    found = seen(place, reader.format(file=str(file)))
    file.write_text("width: 4")
    assert found.changed() == str(file)
    file.unlink()
    assert found.changed() == str(file)


def test_a_file_that_it_looks_for_in_vain(place: Path) -> None:
    file = place / "settings.yaml"
    found = seen(place, f"try:\n    open({str(file)!r})\nexcept OSError:\n    pass")
    file.write_text("width: 4")
    assert found.changed() == str(file)


@pytest.mark.parametrize("how", ["from safetensors.torch import load_file as read", "read = torch.load"])
def test_weights_that_it_reads_itself(how: str, place: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    file, save = place / "w", save_file if "safetensors" in how else torch.save
    save({"a": torch.zeros(3)}, file)
    found = seen(place, f"import torch\n{how}\nread({str(file)!r})")
    save({"a": torch.ones(3)}, file)
    assert found.changed() == str(file)


def test_a_folder_that_it_lists(place: Path) -> None:
    (place / "data").mkdir()
    found = seen(place, f"import os\nos.listdir({str(place / 'data')!r})")
    (place / "data" / "more.txt").touch()
    assert found.changed() == str(place / "data")


@pytest.mark.parametrize(
    "reading", ["os.environ['WIDTH_X']", "os.environ.get('WIDTH_X')", "os.getenv('WIDTH_X')", "'WIDTH_X' in os.environ"]
)
def test_a_variable_that_it_reads(reading: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIDTH_X", "3")
    found = seen(place, f"import os\n{reading}")
    assert "3" not in found.variables.values(), "it may be a secret"
    monkeypatch.setenv("WIDTH_Y", "5")
    assert found.changed() == ""
    monkeypatch.setenv("WIDTH_X", "4")
    assert found.changed() == "the variable WIDTH_X"
    monkeypatch.delenv("WIDTH_X")
    assert found.changed() == "the variable WIDTH_X"


def test_a_variable_that_it_sets_itself(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIDTH_X", "3")  # so that it is put back
    monkeypatch.delenv("WIDTH_X")
    (place / "net_of_test.py").write_text("import os\nos.environ['WIDTH_X'] = '4'\nos.environ['WIDTH_X']")
    watch = Watch()
    with watch.on():
        importlib.import_module("net_of_test")
    found = watch.needs(dict(sys.modules), OWN)
    assert isinstance(found, Needs)
    monkeypatch.delenv("WIDTH_X")  # as it is when a later run begins
    assert found.changed() == ""


def test_the_environment_is_its_own_afterwards() -> None:
    kind = type(os.environ)
    with Watch().on():
        assert type(os.environ) is not kind
        assert os.environ.get("HOME") == dict(os.environ).get("HOME")
    assert type(os.environ) is kind


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (lambda _: socket.getaddrinfo("localhost", 1), "looks up an address"),
        (lambda _: subprocess.run(["true"], check=True), "starts a program"),
        (lambda path: (path / "made").write_text(""), "writes"),
        (lambda path: os.close(os.open(path / "made", os.O_RDWR | os.O_CREAT)), "writes"),
    ],
    ids=["network", "program", "write", "open"],
)
def test_what_makes_it_unknown(act: object, why: str, tmp_path: Path) -> None:
    watch = Watch()
    with watch.on():
        act(tmp_path)  # type: ignore[operator]
    found = watch.needs({}, OWN)
    assert isinstance(found, str)
    assert why in found


def test_a_library_that_it_loads(place: Path) -> None:
    import _ctypes

    library = place / "copy.so"
    library.write_bytes(Path(_ctypes.__file__).read_bytes())
    watch = Watch()
    with watch.on():
        ctypes.CDLL(str(library))
    found = watch.needs({}, OWN)
    assert isinstance(found, Needs)
    assert str(library) in found.files


def test_a_source_that_is_gone_makes_it_unknown(place: Path) -> None:
    (place / "net_of_test.py").write_text("")
    watch = Watch()
    with watch.on():
        importlib.import_module("net_of_test")
    (place / "net_of_test.py").unlink()
    assert watch.needs(dict(sys.modules), OWN) == f"the source {place / 'net_of_test.py'} is gone"


def test_installed_packages_stand_by_their_lists_and_ours_is_known_otherwise() -> None:
    import numpy as np

    found = Watch().needs({"numpy": np, "attn_export": attn_export, "os": os}, OWN)
    assert isinstance(found, Needs)
    (file,) = [path for path in found.files if "numpy" in path]
    assert file.endswith(f"numpy-{np.__version__}.dist-info/RECORD")
    assert not [path for path in found.files if path.startswith((str(OWN), os.__file__))]


def test_a_file_that_was_written_after_the_beginning_is_late(tmp_path: Path) -> None:
    (tmp_path / "early").touch()
    time.sleep(0.05)
    began = time.time()
    assert needs.late([tmp_path / "early", tmp_path / "none"], began) == ""
    (tmp_path / "late").touch()
    os.utime(tmp_path / "late", (0, 0))  # which changes what is said of its content, and not when that was
    assert needs.late([tmp_path / "late"], began) == str(tmp_path / "late")


class TestHouse:
    """What every result depends on."""

    def test_it_is_the_same_a_moment_later(self) -> None:
        assert house.describe() == house.describe()

    @pytest.mark.parametrize(
        "name", ["OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "LD_PRELOAD", "ORT_X", "TORCH_X", "RICH_X"]
    )
    def test_settings_of_libraries_count(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        before = house.describe()
        monkeypatch.setenv("UNRELATED_X", "7")
        assert house.describe() == before
        monkeypatch.setenv(name, "7")
        assert house.describe() != before

    def test_a_line_of_code_and_a_template_count(self, tmp_path: Path) -> None:
        (tmp_path / "room").mkdir()
        (tmp_path / "room" / "a.py").write_text("x = 1")
        (tmp_path / "b.jinja").write_text("<p>")
        found = {house.code(tmp_path)}
        (tmp_path / "__pycache__").mkdir()
        (tmp_path / "__pycache__" / "a.pyc").write_text("bytecode")
        assert house.code(tmp_path) in found
        for file, text in (("room/a.py", "x = 2"), ("b.jinja", "<b>"), ("new.py", "")):
            (tmp_path / file).write_text(text)
            found.add(house.code(tmp_path))
        assert len(found) == 4

    def test_a_package_of_another_version_counts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "torch-2.13.0.dist-info").mkdir()
        monkeypatch.syspath_prepend(str(tmp_path))
        before = house.describe()
        (tmp_path / "torch-2.13.0.dist-info").rename(tmp_path / "torch-2.13.1.dist-info")
        assert house.describe() != before

    @pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or os.cpu_count() == 1, reason="one processor")
    def test_the_processors_that_we_may_use_count(self) -> None:
        before, mine = house.describe(), os.sched_getaffinity(0)
        try:
            os.sched_setaffinity(0, {min(mine)})
            changed = house.describe() != before
        finally:
            os.sched_setaffinity(0, mine)
        assert changed == (len(mine) > 1)
