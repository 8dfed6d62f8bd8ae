"""What is to be built, as plain data: it crosses to the building process as JSON and is hashed for the cache."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from attn_export.deploy_tests.backends.tensorrt.bindings import PRODUCTS, Product
from attn_export.types import ShapeRange


@dataclass(frozen=True)
class Request:
    """One engine to build.

    Attributes:
        product: module name of the product that builds.
        model: the ONNX file.
        sm: compute capability to build for, such as ``"86"``; empty for the GPU that is there.
        shapes: per input the range of shapes.
        tf32: whether float32 products may be computed in TF32, which costs three decimal digits.
        workspace: bytes of scratch memory the builder may plan with; None for its own choice.
        device: index of the GPU.
    """

    product: str
    model: Path
    sm: str = ""
    shapes: Mapping[str, ShapeRange] = field(default_factory=dict)
    tf32: bool = False
    workspace: int | None = None
    device: int = 0

    @property
    def maker(self) -> Product:
        """The product that builds."""
        return PRODUCTS[self.product]

    def flags(self) -> dict[str, Any]:
        """List what shapes the engine besides the graph, the version and the GPU."""
        ranges = {name: asdict(shape) for name, shape in sorted(self.shapes.items())}
        return {"shapes": ranges, "tf32": self.tf32, "workspace": self.workspace, "strongly_typed": True}

    def dumps(self) -> str:
        """Write the request as JSON."""
        return json.dumps({**asdict(self), "model": str(self.model)})


def loads(text: str) -> Request:
    """Read what ``Request.dumps`` wrote."""
    raw = json.loads(text)
    shapes = {name: ShapeRange(*(tuple(r[key]) for key in ("min", "opt", "max"))) for name, r in raw["shapes"].items()}
    return Request(**{**raw, "model": Path(raw["model"]), "shapes": shapes})
