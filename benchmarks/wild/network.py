"""What is tried: a network as a few lines of code, or a trained file, and the words that are typed for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: The file that a network's lines are put into, and the function in it.
FILE, FACTORY = "net.py", "make"


@dataclass(frozen=True)
class Network:
    """One row of the matrix.

    Attributes:
        library: whose network it is: the name of a package, or ``files`` for trained ONNX files.
        name: how that library calls it; for a file ``producer/name.onnx``.
        code: lines of Python, the last of which is ``return`` and the module.
        inputs: what is typed behind ``--input``.
        file: the trained file, instead of code.
    """

    library: str
    name: str
    code: str = ""
    inputs: tuple[str, ...] = ()
    file: Path | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What a row is found by."""
        return self.library, self.name

    @property
    def source(self) -> str:
        """The text of the file with the factory."""
        body = "".join(f"    {line}\n" for line in self.code.splitlines())
        return f"def {FACTORY}():\n{body}"

    @property
    def words(self) -> list[str]:
        """What is typed behind ``attn-export``, less where it is to be written."""
        subject = f"{FILE}:{FACTORY}" if self.file is None else str(self.file)
        shapes = [word for text in self.inputs for word in ("--input", text)]
        return [subject, *shapes, "--fuse", "--no-bench"]
