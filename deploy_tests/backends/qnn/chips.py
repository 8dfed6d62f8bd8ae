"""The chips that can be named: Qualcomm's number of each, confirmed by what the compiler then wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

#: Names with ``soc_model``, the number that the compiler takes. Only those whose name was read back from a binary.
CHIPS: Mapping[str, int] = {"sm8650": 57, "sm8550": 43, "sm8750": 69, "sm8850": 87}
#: As it stands in a context binary, between the options of the build.
_WRITTEN = re.compile(rb"soc_type=([A-Za-z0-9_]+);arch=([0-9]+)")


def read_back(artifact: Path) -> tuple[tuple[str, str], ...]:
    """Read from a context file for which chips its binaries are: each name and architecture once.

    The architecture that the compiler was asked for says nothing: it is ignored where the chip has another.
    """
    found = dict.fromkeys(_WRITTEN.findall(artifact.read_bytes()))
    return tuple((name.decode(), arch.decode()) for name, arch in found)
