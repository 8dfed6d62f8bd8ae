"""What the result of a job holds for: equal keys, equal results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from attn_export import __version__, bundle
from attn_export.mechanisms import MECHANISMS
from attn_export.pipeline.sweep.job import MeasureJob, SweepJob
from attn_export.pipeline.sweep.versions import OWN

#: What every entry depends on besides its own file.
_SHARED = (
    "mechanisms/_layers",
    "reparam",
    "export",
    "deploy_tests",
    "pipeline",
    "bundle",
)


class BuildKeys:
    """Keys of bundles: the entry with its code, the code that all entries share, libraries, and what is asked besides.

    A change of one entry is a change of its keys alone; so of our own version only the number counts.

    Args:
        versions: of the machine that asks.
        bench: whether the job measures, too.
        mutants: how many faults it injects.
    """

    def __init__(self, versions: Mapping[str, str], *, bench: bool, mutants: str) -> None:
        libraries = sorted((name, version) for name, version in versions.items() if name != OWN)
        digest = hashlib.sha256(json.dumps([__version__, bench, mutants, libraries]).encode())
        root = Path(__file__).parents[2]
        for place in _SHARED:
            for file in sorted((root / place).rglob("*.py")):
                digest.update(file.read_bytes())
        self._shared = digest.hexdigest()

    def of(self, job: SweepJob) -> str:
        """Make the key of one."""
        path = MECHANISMS.entry(job.name).path
        assert path is not None
        return _hash(self._shared, asdict(job), bundle.sha256(path))


def measure_key(job: MeasureJob, digest: str, identity: str, versions: Mapping[str, str]) -> str:
    """Make the key of a measurement: the very bundle, the device, the runtimes' versions and how it is taken.

    Args:
        job: what is measured, where and how.
        digest: the bundle's.
        identity: of the machine that is measured; of one that is reached by ssh its address is all that is known.
        versions: of the machine that runs it, or that sends it to the device.
    """
    own = {name: value for name, value in asdict(job).items() if name != "bundle"}
    return _hash(own, digest, identity, sorted(versions.items()))


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
