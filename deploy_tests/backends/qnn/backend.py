"""Qualcomm's compiler behind the compiler protocol: a context binary for a named chip, whose name is read from it."""

from __future__ import annotations

import hashlib
import importlib.util
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import ClassVar

from attn_export.deploy_tests.backend import CompileOptions
from attn_export.deploy_tests.backends.qnn import chips, worker
from attn_export.deploy_tests.compiling import child
from attn_export.deploy_tests.compiling.evidence import ChipEvidence, CpuNode, Placement, graph_hash
from attn_export.deploy_tests.compiling.only import CompileOnly, refuse_without_ranges
from attn_export.errors import BackendError, BackendMissingError

DISTRIBUTION, MODULE = "onnxruntime-qnn", "onnxruntime_qnn"
#: Float32 graphs are computed in float16; a quantised graph goes to the NPU with its two ends.
SETTINGS = {"enable_htp_fp16_precision": "1", "offload_graph_io_quantization": "0"}
ABSENT = "it runs on phones with a Snapdragon, and here it compiles: attn-export compile BUNDLE --target qnn:sm8650"


@dataclass(frozen=True)
class QNN(CompileOnly):
    """QNN's compiler for the HTP, with the maker's simulator of it.

    Attributes:
        limit: seconds that a build may take.
    """

    absent: ClassVar[str] = ABSENT
    accepts: ClassVar[tuple[str, ...]] = ("onnx",)
    compiles_for: ClassVar[tuple[str, ...]] = ("qnn",)
    chips: ClassVar[tuple[str, ...]] = tuple(chips.CHIPS)
    precisions: ClassVar[tuple[str, ...]] = ("float16", "int8")
    simulates: ClassVar[bool] = True
    takes_int8: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = (DISTRIBUTION,)
    title: ClassVar[str] = "Qualcomm QNN"
    device: ClassVar[str] = "npu"

    limit: float = child.LIMIT

    def version(self) -> str:
        """Version of the package that brings the compiler."""
        return f"{DISTRIBUTION} {metadata.version(DISTRIBUTION)}"

    def missing_compiler(self) -> str | None:
        """Say what to install before ``compile_only`` can work, or None; neither chip nor SDK is needed."""
        if importlib.util.find_spec(MODULE) is None:
            return f"{DISTRIBUTION} is not installed: pip install 'attn-export[qnn]' (Python 3.11 or newer)"
        return None

    def compile_only(self, model: Path, options: CompileOptions) -> ChipEvidence:
        """Build ``model`` for a chip such as ``sm8650``, which is meant where none is named.

        Raises:
            BackendMissingError: int8 is asked for, and the quantiser's package is not here.
            RefusedError: QNN takes no node of it, or a size stays open.
            BackendError: it died, did not end, or built for another chip.
        """
        chip = options.device or self.chips[0]
        return self.build(model, chip, chips.CHIPS[chip], options)

    def build(self, model: Path, chip: str, soc_model: int, options: CompileOptions) -> ChipEvidence:
        """Build for the chip of a number, and believe only what stands in the binary.

        Raises:
            BackendMissingError, RefusedError, BackendError: as ``compile_only``.
        """
        precision = options.precision or self.precisions[0]
        if precision == "int8" and importlib.util.find_spec("onnx") is None:
            raise BackendMissingError("int8 takes ONNX Runtime's quantiser, which needs onnx: pip install onnx")
        if precision == "int8":
            refuse_without_ranges(worker.WHO, model, options)
        request = {
            "model": str(model.resolve()),
            "soc_model": soc_model,
            "precision": precision,
            "shapes": {name: list(shape.opt) for name, shape in options.shapes.items()},
            "settings": SETTINGS,
            "calibration": len(options.calibration),
        }
        job = child.Job(worker.__name__, worker.WHO, model, request, limit=self.limit)
        with tempfile.TemporaryDirectory(prefix="attn-export-qnn-") as temporary:
            folder = Path(temporary)
            result = child.run(job, folder, [*options.calibration, *options.simulate])
            artifact = folder / worker.CONTEXT
            name, read = _chip(artifact, chip)
            return ChipEvidence(
                DISTRIBUTION,
                metadata.version(DISTRIBUTION),
                f"qnn:{chip}",
                name,
                read,
                result["precision"],
                {port: tuple(shape) for port, shape in result["sizes"].items()},
                graph_hash(model),
                Placement(result["accelerator"], tuple(CpuNode(**node) for node in result["cpu"]), result["refusal"]),
                artifact.stat().st_size,
                hashlib.sha256(artifact.read_bytes()).hexdigest(),
                result["seconds"],
                {**SETTINGS, "onnxruntime": result["runtime"]},
                warnings=tuple(result["warnings"]),
                simulated=child.load(folder / worker.SIMULATED),
            )


def _chip(artifact: Path, wanted: str) -> tuple[str, str]:
    """Give the chip's name as the artifact has it, and what stands there.

    Raises:
        BackendError: no chip stands there, or another.
    """
    found = chips.read_back(artifact) if artifact.is_file() else ()
    said = ", ".join(f"soc_type={name};arch={arch}" for name, arch in found)
    if {name.lower() for name, _ in found} != {wanted}:
        raise BackendError(
            f"expected a binary for {wanted.upper()}, got one that says {said or 'no chip'}; it proves nothing of"
            f" {wanted.upper()}"
        )
    return found[0][0], said
