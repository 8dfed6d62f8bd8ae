"""Arm's Vela behind the compiler protocol: a ``.tflite`` whose command streams name the NPU that they are for."""

from __future__ import annotations

import hashlib
import importlib.util
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import ClassVar

from attn_export.deploy_tests.backend import CompileOptions
from attn_export.deploy_tests.backends.ethos_u import chips, vela, worker
from attn_export.deploy_tests.compiling import child
from attn_export.deploy_tests.compiling.evidence import ChipEvidence, Placement, graph_hash
from attn_export.deploy_tests.compiling.only import CompileOnly
from attn_export.deploy_tests.refusal import Complaint, RefusedError
from attn_export.errors import BackendError

DISTRIBUTION = "ethos-u-vela"
PACKAGES = {"ethosu": DISTRIBUTION, "ai_edge_quantizer": "ai-edge-quantizer", "ai_edge_litert": "ai-edge-litert"}
ABSENT = (
    "it runs beside a microcontroller with an Ethos-U, and here it compiles:"
    " attn-export compile BUNDLE --target ethos-u85-256"
)


@dataclass(frozen=True)
class EthosU(CompileOnly):
    """Vela; of a bundle without an int8 file a float32 one is brought to int8 first: the NPU has nothing else.

    Attributes:
        limit: seconds that a build may take.
    """

    absent: ClassVar[str] = ABSENT
    accepts: ClassVar[tuple[str, ...]] = ("tflite",)
    compiles_for: ClassVar[tuple[str, ...]] = ("ethos_u",)
    chips: ClassVar[tuple[str, ...]] = chips.CHIPS
    precisions: ClassVar[tuple[str, ...]] = ("int8",)
    takes_int8: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = (DISTRIBUTION,)
    title: ClassVar[str] = "Arm Ethos-U"
    device: ClassVar[str] = "npu"

    limit: float = child.LIMIT

    def version(self) -> str:
        """Version of Vela."""
        return f"{DISTRIBUTION} {metadata.version(DISTRIBUTION)}"

    def missing_compiler(self) -> str | None:
        """Say what to install before ``compile_only`` can work, or None."""
        lacking = [title for name, title in PACKAGES.items() if importlib.util.find_spec(name) is None]
        return f"{lacking[0]} is not installed: pip install 'attn-export[ethos-u]'" if lacking else None

    def compile_only(self, model: Path, options: CompileOptions) -> ChipEvidence:
        """Build ``model`` for an NPU such as ``ethos-u85-256``, which is meant where none is named.

        Raises:
            RefusedError: Vela takes no operator of it, or the quantiser refuses it.
            BackendError: it died, did not end, or built for another NPU.
        """
        chip = options.device or self.chips[0]
        job = child.Job(
            worker.__name__, worker.WHO, model, {"model": str(model.resolve()), "chip": chip}, limit=self.limit
        )
        with tempfile.TemporaryDirectory(prefix="attn-export-vela-") as temporary:
            folder = Path(temporary)
            result = child.run(job, folder, options.calibration)
            placement = _placement(model, folder)
            artifact = _only(folder, "*_vela.tflite")
            name, read = _chip(artifact, chip)
            return ChipEvidence(
                DISTRIBUTION,
                metadata.version(DISTRIBUTION),
                f"ethos-u:{chip}",
                name,
                read,
                "int8",
                {port: tuple(shape) for port, shape in result["sizes"].items()},
                graph_hash(model),
                placement,
                artifact.stat().st_size,
                hashlib.sha256(artifact.read_bytes()).hexdigest(),
                result["seconds"],
                {"quantized_here": result["quantized_here"]},
                vela.estimate(_only(folder, "*_summary_*.csv")),
            )


def _placement(model: Path, folder: Path) -> Placement:
    accelerator, cpu = vela.operators(_only(folder, "*_per-layer.csv"), child.said(folder))
    if not accelerator:
        complaints = [Complaint(node.node, node.op, node.reason or "it stays on the CPU") for node in cpu]
        raise RefusedError(f"{worker.WHO} takes no operator of {model}", "build", complaints)
    return Placement(accelerator, cpu)


def _only(folder: Path, pattern: str) -> Path:
    """Find a file that Vela wrote.

    Raises:
        BackendError: there is none, so it ended without a word.
    """
    found = sorted((folder / worker.OUT).glob(pattern))
    if not found:
        raise BackendError(f"{worker.WHO} wrote no {pattern}; its last words: {child.last_words(folder)}")
    return found[0]


def _chip(artifact: Path, wanted: str) -> tuple[str, str]:
    """Give the NPU as the artifact has it, and what stands there.

    Raises:
        BackendError: none stands there, or another.
    """
    found = chips.read_back(artifact)
    if {name for name, _ in found} != {wanted}:
        said = ", ".join(f"{name} ({word})" for name, word in found) or "no NPU"
        raise BackendError(f"expected command streams for {wanted}, got {said}; they prove nothing of {wanted}")
    return found[0]
