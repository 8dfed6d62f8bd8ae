"""OpenVINO's own counters, put together over runs and said in the words of the graph.

A convolution whose bias and activation were taken in bears its own name with ``/WithoutBiases``; what it was made of
stands in the compiled model. Reorders are the runtime's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from attn_export.deploy_tests.backend import Kernel

#: The percentile that stands for a kernel: a high one tells what else ran on the machine, not what the kernel costs.
LOW = 10
_TAKEN_APART = "/WithoutBiases"


def kernels(
    runs: Sequence[Sequence[tuple[str, str, float]]], origins: Mapping[str, tuple[str, ...]]
) -> tuple[Kernel, ...]:
    """Give each kernel its undisturbed time, in the order in which they run.

    Args:
        runs: by run its kernels: name, operator and microseconds.
        origins: by kernel the nodes of the graph that it runs.
    """
    times: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        for name, op, microseconds in run:
            times.setdefault((name, op), []).append(microseconds)
    return tuple(
        Kernel(name, op, float(np.percentile(values, LOW, method="inverted_cdf")), nodes(name, origins))
        for (name, op), values in times.items()
    )


def nodes(name: str, origins: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Name the nodes that a kernel runs, each once.

    >>> nodes("conv/WithoutBiases", {"conv/WithoutBiases": ("conv/WithoutBiases", "conv", "relu")})
    ('conv', 'relu')
    """
    return tuple(dict.fromkeys(one.removesuffix(_TAKEN_APART) for one in origins.get(name, (name,))))
