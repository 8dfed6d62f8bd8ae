"""The NPUs by Vela's names, and what a compiled file says of them: registers that the driver checks before it runs."""

from __future__ import annotations

import re
import struct
from pathlib import Path

#: The families, by the number that stands in the top of the configuration word.
FAMILIES = ("ethos-u55", "ethos-u65", "ethos-u85")
#: A family with its multiply-accumulates per cycle; each was built for, and read back from the file.
CHIPS = (
    *("ethos-u85-256", "ethos-u85-128", "ethos-u85-512", "ethos-u85-1024", "ethos-u85-2048"),
    *("ethos-u55-32", "ethos-u55-64", "ethos-u55-128", "ethos-u55-256", "ethos-u65-256", "ethos-u65-512"),
)
#: The head of a command stream, the word that announces the configuration, and the configuration: little-endian.
_STREAM = re.compile(rb"COP[12]\x01\x00\x10\x00(.{4})", re.DOTALL)


def read_back(file: Path) -> tuple[tuple[str, str], ...]:
    """Read from a compiled file for which NPUs its command streams are: name and configuration word, each once."""
    words = dict.fromkeys(struct.unpack("<I", raw)[0] for raw in _STREAM.findall(file.read_bytes()))
    return tuple((name(word), f"config={word:#010x}") for word in words)


def name(word: int) -> str:
    """Say which NPU a configuration word is of: the family in its top four bits, log2 of the MACs in its lowest four.

    >>> name(0x20000118), name(0x10006009), name(0x00001005), name(0x70000008)
    ('ethos-u85-256', 'ethos-u65-512', 'ethos-u55-32', 'family 7, 256 MACs')
    """
    family, macs = word >> 28, 1 << (word & 0xF)
    return f"{FAMILIES[family]}-{macs}" if family < len(FAMILIES) else f"family {family}, {macs} MACs"
