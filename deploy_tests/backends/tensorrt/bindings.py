"""Which of NVIDIA's two products is meant, whether its Python bindings are there, and how to get them."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Product:
    """One of the two products that share an API.

    Attributes:
        module: name of the Python module.
        title: what NVIDIA calls it, and so do reports.
        extra: our extra that installs it.
        distribution: the package that brings the module.
        targets_by_name: whether it can build for a GPU that is not there.
    """

    module: str
    title: str
    extra: str
    distribution: str
    targets_by_name: bool


TENSORRT = Product("tensorrt", "TensorRT", "tensorrt", "tensorrt", targets_by_name=False)
RTX = Product("tensorrt_rtx", "TensorRT for RTX", "rtx", "tensorrt-rtx-cu13", targets_by_name=True)
PRODUCTS = {product.module: product for product in (TENSORRT, RTX)}


def missing(product: Product) -> str | None:
    """Say what to install before the bindings can be imported, or None."""
    if importlib.util.find_spec(product.module) is None:
        return f"{product.title} is not installed: pip install 'attn-export[{product.extra}]'"
    try:
        load(product)
    except (ImportError, OSError) as error:
        return (
            f"{product.title} does not load: {error}; its Python bindings are installed but not its libraries:"
            f" pip install --force-reinstall 'attn-export[{product.extra}]', or NVIDIA's packages for this system"
        )
    return None


def load(product: Product) -> ModuleType:
    """Import the bindings. Callers that need types import the module themselves under ``TYPE_CHECKING``."""
    return importlib.import_module(product.module)


def version(product: Product) -> str:
    """Version of the bindings, which is that of the libraries."""
    return str(load(product).__version__)
