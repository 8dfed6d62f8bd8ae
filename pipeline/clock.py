"""Time for the quantiser: two models in turns with a control, and what the nodes of one take, on one input."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from attn_export import bundle
from attn_export.bundle import Case
from attn_export.deploy_tests import backends
from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.latency.comparison import Rules, compare_latency
from attn_export.deploy_tests.latency.profile import attribute
from attn_export.export.graph import cost
from attn_export.export.onnx.save import save
from attn_export.export.quantise.quantised import Ratio
from attn_export.types import Feeds

#: Runs of a profile.
_RUNS = 20


@dataclass(frozen=True)
class PairClock:
    """Measures on the default backend.

    Attributes:
        feeds: the input that both models take.
        folder: where models may lie meanwhile.
        threads: of the runtime.
        rules: how a comparison is played.
        said: told how far it is.
    """

    feeds: Feeds
    folder: Path
    threads: int = 1
    rules: Rules = field(default_factory=Rules)
    said: Callable[[str], None] = field(default=lambda _: None, repr=False)
    _numbers: itertools.count[int] = field(default_factory=itertools.count, repr=False)

    def ratio(self, candidate: onnx.ModelProto, baseline: onnx.ModelProto) -> Ratio | None:
        """Compare two models in turns; None where the control says that this machine, now, cannot.

        Raises:
            BackendError: a model does not run.
        """
        one, other = self._written(candidate), self._written(baseline)
        cases = self.folder / "clock-case.npz"
        bundle.write_cases(cases, [Case("clock", self.feeds, {}, {})])
        rules = replace(self.rules, threads=self.threads)
        found = compare_latency(one, other, cases, rules=rules, progress=self.said)
        for path in (one, other):
            path.unlink()
        return None if found.void else Ratio(found.ratio.estimate, found.ratio.low, found.ratio.high)

    def costs(self, model: onnx.ModelProto) -> Mapping[str, float]:
        """Profile a model: the seconds that each of its nodes takes, by name; of what runs as one, all of it.

        Raises:
            BackendError: the model does not run.
        """
        path = self._written(model)
        kernels = backends.profile(backends.DEFAULT, path, self.feeds, Options(threads=self.threads), _RUNS)
        sizes = {name: value.shape for name, value in self.feeds.items()}
        nodes = cost.to_manifest(cost.costs(model, sizes), "")["nodes"]
        seconds: dict[str, float] = {}
        for row in attribute(kernels, nodes, _RUNS).rows:
            for name in row.nodes:
                seconds[name] = seconds.get(name, 0.0) + row.time_us / 1e6
        path.unlink()
        return seconds

    def _written(self, model: onnx.ModelProto) -> Path:
        path = self.folder / f"clock-{next(self._numbers)}.onnx"
        save(model, path)
        return path
