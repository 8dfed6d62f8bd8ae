"""One command on a device from end to end: look at it, bring what it lacks, run, and bring the result back."""

from __future__ import annotations

import getpass
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attn_export.errors import BackendMissingError, DeviceError
from attn_export.pipeline.progress import Progress
from attn_export.tools.devices import job, parcel, probe, push
from attn_export.tools.devices.address import Address
from attn_export.tools.devices.connection import Connection, LostError
from attn_export.tools.devices.job import Job, Outcome
from attn_export.tools.devices.parcel import Parcel
from attn_export.tools.devices.probe import Device, Python
from attn_export.tools.emulation import trees
from attn_export.untrusted import plain_json


@dataclass(frozen=True)
class Asked:
    """What is to run there.

    Attributes:
        words: of our command line; a place in one of them is where a parcel lies there.
        parcels: what it works on.
        wanted: what its backends need, for pip.
        what: it is, for others who wait for the device.
    """

    words: Callable[[str], Sequence[str]]
    parcels: tuple[Parcel, ...]
    wanted: tuple[str, ...]
    what: str


@dataclass(frozen=True)
class Answer:
    """What came of it.

    Attributes:
        outcome: exit code and what was printed.
        device: where it ran.
        began: seconds since 1970, by the clock of this machine.
        pushed: bytes that were brought there.
    """

    outcome: Outcome
    device: Device
    python: Python
    began: float
    pushed: int

    def content(self) -> dict[str, Any]:
        """Give its JSON object; empty where it ended before there was one.

        Raises:
            DeviceError: it is none.
        """
        if not self.outcome.result:
            return {}
        try:
            found = plain_json.parse(self.outcome.result)
        except ValueError as error:
            raise DeviceError(f"what {self.device.host} gave is no JSON: {error}") from error
        if not isinstance(found, dict):
            raise DeviceError(f"what {self.device.host} gave is no object of JSON")
        return found

    def machine(self, address: Address) -> dict[str, Any]:
        """Say for a record which device it was; the time is of this machine's clock, since a board may have none."""
        skew = self.device.time - self.began if self.device.time else 0.0
        return {
            "address": str(address),
            "host": self.device.host,
            "machine": self.device.machine,
            "libc": self.device.libc,
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.began)),
            "clock_ahead_s": round(skew),
            "sensors": list(self.device.sensors),
        }


def run(line: Connection, asked: Asked, progress: Progress, say: Callable[[str], None]) -> Answer:
    """Do it.

    Raises:
        BackendMissingError: the device cannot carry the runtime, or it cannot be had for it.
        DeviceError, WriteError: it cannot be reached, refuses, or has no room.
        InconclusiveError: it went away for good, or the run gave no result.
    """
    began = time.time()
    try:
        with progress.stage(f"look at {line.address.host}"):
            device = probe.look(line)
            python = device.python()
        packages = packages_for(device, python, asked.wanted, progress)
        parcels = (*packages, *asked.parcels)
        pushed = push.push(line, device, parcels, progress)
    except LostError as error:
        raise DeviceError(
            f"{line.address.host} did not come back within {line.patience:g} s ({error}); nothing was run there"
        ) from error
    mine = Job(
        python.path,
        [one.place for one in packages],
        asked.words(device.root),
        f"{asked.what} for {getpass.getuser()}@{platform.node()}",
    )
    with progress.stage(f"run on {device.host}"):
        outcome = job.run(line, device, mine, say=say, detail=progress.detail)
    if (died := job.died(outcome, device)) is not None:
        raise died
    return Answer(outcome, device, python, began, pushed)


def packages_for(device: Device, python: Python, wanted: Sequence[str], progress: Progress) -> tuple[Parcel, Parcel]:
    """Make what runs there: this very package, and the runtime's wheels for its processor and Python.

    Raises:
        BackendMissingError: there is none, or it cannot be had.
    """
    what = f"Python {python.minor} on {device.machine} (glibc 2.{python.glibc})"
    try:
        site = trees.packages(wanted, device.machine, python.minor, progress, glibc=python.glibc or None)
    except BackendMissingError as error:
        raise BackendMissingError(f"no environment for {device.host}, {what}: {error}") from error
    return parcel.of_tree(trees.code(), "attn-export"), parcel.of_tree(site, f"the environment for {what}")


def replaced(content: Any, places: Mapping[str, str]) -> Any:
    """Give plain data in which the places on a device are what was typed for them.

    >>> replaced({"bundle": "/r/bundle/ab/model.onnx"}, {"/r/bundle/ab": "net"})
    {'bundle': 'net/model.onnx'}
    """
    if isinstance(content, str):
        for there, here in places.items():
            content = content.replace(there, here)
        return content
    if isinstance(content, Mapping):
        return {key: replaced(value, places) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [replaced(value, places) for value in content]
    return content
