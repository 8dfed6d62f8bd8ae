"""What a device is: asked in one call, before anything is brought to it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from attn_export.errors import BackendMissingError
from attn_export.tools.devices.connection import Connection
from attn_export.untrusted import text

#: What runs there needs Python in one of these versions; the newest for which the runtime has wheels is the last.
OLDEST, NEWEST = (3, 10), (3, 14)
#: Architectures for which NumPy and the usual runtime have wheels, in the words of ``uname`` and of wheels.
ARCHITECTURES = ("aarch64", "x86_64")
#: What our scripts use there.
_TOOLS = ("tar", "gzip", "mv", "flock", "setsid", "sleep", "find")

_SCRIPT = r"""
say() { printf "%s=%s\n" "$1" "$2"; }
first() { for file in "$@"; do [ -r "$file" ] && { cat "$file" 2>/dev/null; return; }; done; }
case "$XDG_CACHE_HOME" in /*) root=$XDG_CACHE_HOME ;; *) root=$HOME/.cache ;; esac
say root "$root/attn-export"
at=$root; while [ ! -d "$at" ] && [ "$at" != / ]; do at=$(dirname "$at"); done
say free "$(df -Pk "$at" | { read -r _; read -r _ _ _ free _; echo "$free"; })"
say host "$(uname -n)"; say machine "$(uname -m)"; say system "$(uname -s) $(uname -r)"
say cores "$(nproc 2>/dev/null)"; say time "$(date +%s)"
for file in /lib/ld-musl-*; do [ -e "$file" ] && say musl "$file"; done
for tool in $1; do command -v "$tool" >/dev/null || say lacks "$tool"; done
for name in python3 $2; do
  path=$(command -v "$name") && say python "$("$path" -I -S -c "import sys, struct, sysconfig, platform
print('%d.%d.%d' % sys.version_info[:3], struct.calcsize('P') * 8, sysconfig.get_config_var('SOABI'),
'-'.join(platform.libc_ver()) or '-', sys.argv[1])" "$path" 2>/dev/null)"
done
say governor "$(first /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor)"
for file in /sys/class/thermal/thermal_zone*/temp; do [ -r "$file" ] && say heat "$(cat "$file" 2>/dev/null)"; done
for file in /sys/class/powercap/*/energy_uj; do [ -r "$file" ] && { say sensor rapl; break; }; done
for file in /sys/bus/i2c/drivers/ina3221*; do [ -e "$file" ] && { say sensor ina3221; break; }; done
for file in /sys/class/power_supply/*/type; do
  [ -r "$file" ] && [ "$(cat "$file")" = Battery ] && { say sensor battery; break; }
done
true
"""


@dataclass(frozen=True)
class Python:
    """One interpreter there.

    Attributes:
        version: three numbers.
        bits: of its pointers: a 64-bit kernel may carry a 32-bit system.
        abi: what its extensions are named by, as ``cpython-311-aarch64-linux-gnu``.
        glibc: the second number of its version, as 31 of 2.31; 0 where that is not known.
        path: where it is.
    """

    version: tuple[int, int, int]
    bits: int
    abi: str
    glibc: int
    path: str

    @property
    def minor(self) -> str:
        """As wheels have it, such as ``3.12``."""
        return f"{self.version[0]}.{self.version[1]}"

    def __str__(self) -> str:
        return f"{'.'.join(map(str, self.version))} ({self.path})"


@dataclass(frozen=True)
class Device:
    """What is there.

    Attributes:
        host: its name for itself.
        machine: of its kernel, as ``uname -m`` says it.
        system: kernel and release.
        root: our folder there.
        free: bytes that are free for it.
        cores: how many processors; 0 where it does not say.
        musl: whether its C library is musl.
        lacks: programs of ours that it lacks.
        pythons: the interpreters on its path, the usual one first.
        time: its clock, in seconds since 1970.
        governor: of its clock; empty where it does not say.
        celsius: the hottest of its sensors; None where there is none.
        sensors: what could tell energy: ``rapl``, ``ina3221``, ``battery``.
    """

    host: str
    machine: str
    system: str
    root: str
    free: int
    cores: int = 0
    musl: bool = False
    lacks: tuple[str, ...] = ()
    pythons: tuple[Python, ...] = ()
    time: int = 0
    governor: str = ""
    celsius: float | None = None
    sensors: tuple[str, ...] = field(default=())

    @property
    def libc(self) -> str:
        """Its C library, such as ``glibc 2.31``."""
        if self.musl:
            return "musl"
        newest = max((one.glibc for one in self.pythons), default=0)
        return f"glibc 2.{newest}" if newest else "unknown"

    def python(self) -> Python:
        """Choose the interpreter that can carry our runtime: the usual one if it can, else the newest.

        Raises:
            BackendMissingError: there is none.
        """
        if lacking := text.few(self.lacks, 9):
            raise BackendMissingError(f"{self.host} lacks {lacking}, by which a run is started there: install it")
        if self.musl and not any("gnu" in one.abi for one in self.pythons):
            raise BackendMissingError(
                f"{self.host} has musl as its C library (Alpine and its kin), for which no runtime has a wheel;"
                " use a system with glibc, or a container of one on it"
            )
        if self.machine not in ARCHITECTURES or (self.pythons and all(one.bits != 64 for one in self.pythons)):
            what = f"{self.machine}, 32-bit" if self.machine in ARCHITECTURES else self.machine
            raise BackendMissingError(
                f"{self.host} is {what}: NumPy and the runtime have wheels for 64-bit {' and '.join(ARCHITECTURES)}"
                " alone; a board that can is to be given a 64-bit system"
            )
        able = [
            one for one in self.pythons
            if one.bits == 64 and "gnu" in one.abi and "t-" not in one.abi and OLDEST <= one.version[:2] <= NEWEST
        ]  # fmt: skip
        if able:
            return able[0] if able[0] is self.pythons[0] else max(able, key=lambda one: one.version)
        between = f"{'.'.join(map(str, OLDEST))} to {'.'.join(map(str, NEWEST))}"
        found = text.few(map(str, self.pythons), 6) or "none"
        raise BackendMissingError(
            f"{self.host} has no Python that can run this: expected {between}, found {found}; install python3 there"
        )


def look(line: Connection) -> Device:
    """Ask a device what it is.

    Raises:
        DeviceError: it cannot be reached.
        LostError: it is gone.
    """
    names = " ".join(f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1))
    return described(line.call(_SCRIPT, " ".join(_TOOLS), names).fields())


def described(fields: list[tuple[str, str]]) -> Device:
    """Make a device of what it said; what it left out is not known."""

    def one(name: str) -> str:
        return text.one_line(next((value for key, value in fields if key == name), ""))[:300]

    def every(name: str) -> list[str]:
        return list(dict.fromkeys(value for key, value in fields if key == name))

    pythons = [found for line in every("python") if (found := _python(line))]
    heat = [int(value) / 1000 for value in every("heat") if re.fullmatch(r"-?\d{1,7}", value)]
    return Device(
        host=one("host"),
        machine={"arm64": "aarch64", "amd64": "x86_64"}.get(one("machine"), one("machine")),
        system=one("system"),
        root=next((value for key, value in fields if key == "root"), ""),
        free=_number(one("free")) * 1024,
        cores=_number(one("cores")),
        musl=bool(every("musl")) and not any("gnu" in found.abi for found in pythons),
        lacks=tuple(every("lacks")),
        pythons=tuple(dict.fromkeys(pythons)),
        time=_number(one("time")),
        governor=one("governor"),
        celsius=max(heat, default=None),
        sensors=tuple(every("sensor")),
    )


def _python(line: str) -> Python | None:
    found = re.fullmatch(r"(\d+)\.(\d+)\.(\d+) (\d+) (\S+) (?:glibc-2\.(\d+)\S*|\S+) (/.+)", line)
    if found is None:
        return None
    major, minor, micro, bits = map(int, found.group(1, 2, 3, 4))
    return Python((major, minor, micro), bits, found[5], int(found[6] or 0), text.one_line(found[7]))


def _number(value: str) -> int:
    return int(value) if re.fullmatch(r"\d{1,18}", value) else 0
