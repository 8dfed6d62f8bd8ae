"""Rockchip's compiler behind the compiler protocol: a model file for a named chip, whose name is read from it."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from attn_export.deploy_tests.backend import CompileOptions
from attn_export.deploy_tests.backends.rknn import environment, worker
from attn_export.deploy_tests.backends.rknn.layers import layers, target
from attn_export.deploy_tests.compiling import child
from attn_export.deploy_tests.compiling.evidence import ChipEvidence, CpuNode, Placement, graph_hash
from attn_export.deploy_tests.compiling.only import CompileOnly, refuse_without_ranges
from attn_export.deploy_tests.refusal import Complaint, RefusedError
from attn_export.errors import BackendError, BackendMissingError

PRODUCT = "rknn-toolkit2"
#: Each was built for, and its name read back from the file.
CHIPS = ("rk3588", "rk3576", "rk3566", "rk3568", "rk3562", "rv1103", "rv1103b", "rv1106", "rv1126b")
ABSENT = "it runs on boards with a Rockchip NPU, and here it compiles: attn-export compile BUNDLE --target rknn:rk3588"


@dataclass(frozen=True)
class RKNN(CompileOnly):
    """rknn-toolkit2's compiler, with the maker's simulator.

    Attributes:
        limit: seconds that a build may take.
    """

    absent: ClassVar[str] = ABSENT
    accepts: ClassVar[tuple[str, ...]] = ("onnx",)
    compiles_for: ClassVar[tuple[str, ...]] = ("rknn",)
    chips: ClassVar[tuple[str, ...]] = CHIPS
    precisions: ClassVar[tuple[str, ...]] = ("float16", "int8")
    simulates: ClassVar[bool] = True
    title: ClassVar[str] = "Rockchip RKNN"
    device: ClassVar[str] = "npu"

    limit: float = child.LIMIT

    def version(self) -> str:
        """Name of the compiler and its version, which the environment pins."""
        return f"{PRODUCT} {environment.VERSION}"

    def missing_compiler(self) -> str | None:
        """Say what to install before ``compile_only`` can work, or None."""
        if environment.python():
            return None
        return environment.unsupported() or f"{self.version()} is not installed: it needs an environment of its own"

    def installation(self) -> str:
        """Say what ``install`` would install, and where."""
        return environment.plan()

    def install(self) -> None:
        """Make the environment.

        Raises:
            BackendError: it could not be made; what was there before is intact.
        """
        environment.make()

    def compile_only(self, model: Path, options: CompileOptions) -> ChipEvidence:
        """Build ``model`` for a chip such as ``rk3588``, which is meant where none is named.

        Raises:
            BackendMissingError: there is no environment.
            RefusedError: rknn-toolkit2 refuses it, or a size stays open.
            BackendError: it died, did not end, or built for another chip.
        """
        chip, precision = options.device or CHIPS[0], options.precision or self.precisions[0]
        if (python := environment.python()) is None:
            raise BackendMissingError(self.missing_compiler() or "")
        if precision == "int8":
            refuse_without_ranges(worker.WHO, model, options)
        request = {
            "model": str(model.resolve()),
            "chip": chip,
            "precision": precision,
            "shapes": {name: list(shape.opt) for name, shape in options.shapes.items()},
            "calibration": len(options.calibration),
        }
        job = child.Job(worker.__name__, worker.WHO, model, request, python, self.limit)
        with tempfile.TemporaryDirectory(prefix="attn-export-rknn-") as temporary:
            folder = Path(temporary)
            result = child.run(job, folder, [*options.calibration, *options.simulate])
            artifact = folder / worker.MODEL
            if (read := target(artifact)) != chip:
                raise BackendError(
                    f"expected a file for {chip}, got one that says {read or 'no chip'}; it proves nothing"
                )
            return ChipEvidence(
                PRODUCT,
                environment.VERSION,
                f"rknn:{chip}",
                read.upper(),
                f'"target_platform":["{read}"]',
                precision,
                {port: tuple(shape) for port, shape in result["sizes"].items()},
                graph_hash(model),
                _placement(model, child.said(folder)),
                artifact.stat().st_size,
                hashlib.sha256(artifact.read_bytes()).hexdigest(),
                result["seconds"],
                warnings=tuple(result["warnings"]),
                simulated=child.load(folder / worker.SIMULATED),
            )


def _placement(model: Path, said: str) -> Placement:
    try:
        found = layers(said)
    except ValueError as error:
        raise BackendError(f"{PRODUCT} built {model}, but {error}") from error
    cpu = tuple(CpuNode(layer.node, layer.op) for layer in found if layer.target != "NPU")
    if len(cpu) == len(found):
        complaints = [Complaint(node.node, node.op, "it stays on the CPU") for node in cpu]
        raise RefusedError(f"{worker.WHO} takes no node of {model}", "build", complaints)
    return Placement(len(found) - len(cpu), cpu)
