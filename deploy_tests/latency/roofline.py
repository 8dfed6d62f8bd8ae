"""What this machine can do at most, measured: multiply-add rate and memory bandwidth, on one thread or several.

    shortest time of a node = max( flops / peak , bytes / bandwidth )        share = shortest / measured

The peak is NumPy's own float32 matrix product (BLAS), the bandwidth a copy of an array too large for any cache. Both
take the best of many tries of a millisecond or two, shorter than a time slice: a peak is what the machine can do, not
what it does beside others. NumPy's threads are set by the environment when it is loaded, hence a fresh process.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from attn_export.errors import BackendError
from attn_export.process import activity, children

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True)
class Roofline:
    """Floating-point operations and bytes a second that this machine reached."""

    flops_per_s: float
    bytes_per_s: float
    threads: int

    def shortest(self, flops: float, moved: float) -> float:
        """Compute the fewest seconds that so much work can take here."""
        return max(flops / self.flops_per_s, moved / self.bytes_per_s)

    def bound(self, flops: float, moved: float) -> str:
        """Say what limits it: ``compute`` or ``memory``."""
        return "compute" if flops / self.flops_per_s >= moved / self.bytes_per_s else "memory"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def measure_roofline(threads: int = 1, *, size: int = 384, megabytes: int = 128, seconds: float = 0.5) -> Roofline:
    """Measure both in a fresh process that has ``threads`` threads.

    Raises:
        BackendError: the child broke, such as for want of memory.
    """
    request = json.dumps({"size": size, "megabytes": megabytes, "seconds": seconds})
    with activity.doing("measuring what this machine can do", who="NumPy", model=""):
        done = children.run(
            "attn_export.deploy_tests.latency.roofline", request, env=dict.fromkeys(_THREADS, str(threads))
        )
    if done.returncode:
        raise BackendError(f"measuring this machine's peak broke: {children.ending(done.returncode, done.stderr)}")
    return Roofline(**json.loads(done.stdout.splitlines()[-1]), threads=threads)


def peak_flops(size: int, seconds: float) -> float:
    """Operations a second of the best float32 matrix product of ``size`` × ``size``."""
    a = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    b, c = a.T.copy(), np.empty_like(a)
    return 2 * size**3 / _best(lambda: np.matmul(a, b, out=c), seconds)


def peak_bandwidth(megabytes: int, seconds: float) -> float:
    """Bytes a second, read and written, of the best copy."""
    step = 500_000  # 4 MB a try; the whole array passes before one is touched again
    a = np.ones(megabytes * 125_000, np.float64)
    b = np.zeros_like(a)
    b[:] = 1  # the pages must be there before they are timed
    places = itertools.cycle(range(0, len(a) - step + 1, step))

    def copy() -> None:
        place = next(places)
        np.copyto(b[place : place + step], a[place : place + step])

    return 2 * 8 * step / _best(copy, seconds)


def _best(work: Any, seconds: float) -> float:
    best, began = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - began < seconds:
        entered = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - entered)
    return best


if __name__ == "__main__":
    wanted = json.loads(sys.argv[1])
    answer = {
        "flops_per_s": peak_flops(wanted["size"], wanted["seconds"]),
        "bytes_per_s": peak_bandwidth(wanted["megabytes"], wanted["seconds"]),
    }
    print(json.dumps(answer))  # noqa: T201  # the answer to the parent process
