"""A model as it is timed: which file, on which backend, computed in what, within which contract, on which case.

Two of them are compared on one case that both take in one run: a file that holds a batch of one, run in pieces, would
be timed with its loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attn_export.bundle import Artifact, Bundle, Case
from attn_export.bundle.narrowed import Narrowed
from attn_export.deploy_tests import backends, open_bundle
from attn_export.deploy_tests.backend import Options
from attn_export.errors import UsageError
from attn_export.types import Feeds, ShapeRange, TensorSpec


@dataclass(frozen=True)
class TimedModel:
    """One side of a comparison.

    Attributes:
        path: the file that the runtime opens.
        backend: which runtime.
        precision: the element type that it computes in.
        inputs: what it takes; empty where that is not known.
        outputs: what it gives, likewise.
        threads: of the runtime; None for those of the comparison.
        settings: of the runtime, what differs from its usual ones.
    """

    path: Path
    backend: str = backends.DEFAULT
    precision: str = "float32"
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    threads: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    def options(self, threads: int, feeds: Feeds) -> Options:
        """Say how it is opened for ``feeds``, whose shapes are all that a runtime must prepare for."""
        varying = [port.name for port in self.inputs if any(isinstance(size, str) for size in port.shape)]
        shapes = {name: ShapeRange(*[feeds[name].shape] * 3) for name in varying if name in feeds}
        return Options(
            self.threads or threads,
            shapes,
            precision=self.precision,
            inputs=self.inputs,
            outputs=self.outputs,
            settings=self.settings,
        )

    def to_dict(self) -> dict[str, Any]:
        """Give plain data, for another process."""
        return {**asdict(self), "path": str(self.path)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TimedModel:
        """Read it there.

        >>> model = TimedModel(Path("m.onnx"), inputs=(TensorSpec("x", "float32", ("b", 3)),))
        >>> TimedModel.from_dict(model.to_dict()) == model
        True
        """
        inputs, outputs = (
            tuple(TensorSpec(port["name"], port["dtype"], tuple(port["shape"])) for port in data[side])
            for side in ("inputs", "outputs")
        )
        rest = data["threads"], data["settings"]
        return cls(Path(data["path"]), data["backend"], data["precision"], inputs, outputs, *rest)


def timed_model(bundle: Bundle, artifact: Artifact, backend: str) -> TimedModel:
    """Give an artifact of a bundle as it is timed on ``backend``."""
    return TimedModel(artifact.path, backend, artifact.precision, bundle.inputs, bundle.outputs)


def runtime_for(bundle: Bundle, artifact: str | None) -> str:
    """Name where to measure when nobody said: the default backend where it takes something, else one that is here.

    Raises:
        UnknownNameError: there is no such artifact.
        BackendMissingError: none that is here takes it.
    """
    if artifact is not None:
        return backends.backend_for(bundle.artifact(artifact).kind)
    if open_bundle.accepted(bundle, backends.DEFAULT):
        return backends.DEFAULT
    return backends.backend_for(bundle.artifacts[0].kind)


def common_case(cases: Sequence[Case], sides: Sequence[Narrowed]) -> int:
    """Find the first case that all sides take in one run.

    Raises:
        UsageError: there is none.
    """
    for index, case in enumerate(cases):
        if all(side.takes(case.inputs) for side in sides):
            return index
    raise UsageError(
        "no case is one that both take in one run, so their times cannot be compared;"
        " export with cases of that size, or convert for another"
    )
