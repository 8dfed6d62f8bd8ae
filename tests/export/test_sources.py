"""Every subject has one source, and what has none is refused in words before PyTorch is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from attn_export.errors import AttnExportError, SubjectError, UnknownNameError, UsageError
from attn_export.export.source import SourceOptions
from attn_export.export.sources import SOURCES, load

#: What may be typed, and the one source that claims it.
CLAIMED = {
    "se": "catalogue",
    "net.onnx": "onnx_file",
    "folder:1/net.onnx": "onnx_file",
    "net.py:Net": "user_code",
    "package.module:build": "user_code",
}


@pytest.mark.parametrize("text", CLAIMED)
def test_what_is_typed_has_one_source(text: str) -> None:
    assert [name for name in SOURCES if SOURCES[name].claims(text)] == [CLAIMED[text]]


def test_every_source_is_tried() -> None:
    assert set(CLAIMED.values()) == set(SOURCES)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (SourceOptions(text="sqeeze"), UnknownNameError, "sqeeze"),
        (SourceOptions(text="net.py"), SubjectError, "file.py:Class"),
        (SourceOptions(text="folder/net"), SubjectError, "file.py:Class"),
        (SourceOptions(text="se", variant="timm"), UsageError, "give the file, too"),
        (SourceOptions(text="se", inputs=("1x3",)), UsageError, "choose --preset"),
        (SourceOptions(text="net.py:Net", preset="test"), UsageError, "--preset is for catalogue entries"),
        (SourceOptions(text="a.onnx", variant="x", weights=Path("w")), UsageError, "--variant is for catalogue"),
        (SourceOptions(text="a.onnx", arguments={"a": 1}), UsageError, "--kwargs and --weights are for code"),
        (SourceOptions(text="torch.nn:ReLU"), UsageError, "--input input:1x3x224x224"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(
    options: SourceOptions, error: type[AttnExportError], words: str
) -> None:
    with pytest.raises(error, match=words):
        load(options)


def test_a_slip_of_the_finger_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['onnx'] = None\n"
        "from attn_export.errors import UnknownNameError\n"
        "from attn_export.export.source import SourceOptions\n"
        "from attn_export.export.sources import load\n"
        "try:\n    load(SourceOptions(text='sqeeze'))\nexcept UnknownNameError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "sqeeze" in done.stdout, done.stderr
