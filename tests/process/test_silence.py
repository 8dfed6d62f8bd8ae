"""What foreign code says is kept, compiled code included, and our own streams are as they were."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings

import pytest

from attn_export.process.silence import silenced


def test_what_python_and_compiled_code_say_is_kept_and_not_shown(capfd: pytest.CaptureFixture[str]) -> None:
    sys.stdout.write("before\n")
    with silenced() as said:
        sys.stdout.write("from python\n")
        os.write(1, b"from C\n")
        os.write(2, b"an error\n")
        warnings.warn("dropped", stacklevel=1)
        assert {"from python", "from C", "an error"} <= set(said().splitlines())
        sys.stderr.write("more\n")
        assert "more" in said()
        assert "dropped" not in said()
    sys.stdout.write("after\n")
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("before\nafter\n", "")


def test_the_streams_come_back_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="within"), silenced():
        raise ValueError("within")
    os.write(2, b"shown\n")
    assert capfd.readouterr().err == "shown\n"


def test_a_handler_that_foreign_code_leaves_is_taken_off() -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    with silenced():
        root.addHandler(logging.StreamHandler())
        root.setLevel(logging.DEBUG)
    assert (root.handlers, root.level) == (before, level)


def test_a_stream_that_is_closed_stays_closed() -> None:
    code = (
        "import os; os.close(1)\n"
        "from attn_export.process.silence import silenced\n"
        "with silenced(): os.write(2, b'kept')\n"
        "try: os.fstat(1)\n"
        "except OSError: os.write(2, b'closed')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "closed")
