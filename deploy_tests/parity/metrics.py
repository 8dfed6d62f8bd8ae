"""The verdicts of the usual rules, for comparison only: none of them decides anything here.

| rule | as in |
|---|---|
| every element within 1e-5 + 1e-5·|y| | Polygraphy's and optimum's default |
| every element within 1e-3 + 1e-3·|y| | what people raise it to |
| cosine > 0.997 | converters' accuracy checkers |
| PSNR ≥ 30 dB | the same |
| SNR in dB | signal over error |
| top-1 | the same largest element in every row |
| verify | torch.onnx.export(verify=True): largest difference < 5e-3, and < 0.1 relative to an element |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from attn_export.types import Array

#: Cosine and PSNR at which converters' checkers pass.
COSINE, PSNR = 0.997, 30.0


def allclose(came: Array, reference: Array, tolerance: float) -> bool:
    """Whether every element lies within ``tolerance`` absolutely plus relatively; NaN never does."""
    return bool(np.allclose(came.astype(np.float64), reference, rtol=tolerance, atol=tolerance))


def cosine(came: Array, reference: Array) -> float:
    """Cosine of the angle between the two as flat vectors; 1 where both are zero, NaN where a value is."""
    a, b = came.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    sizes = float(np.linalg.norm(a) * np.linalg.norm(b))
    if sizes == 0:
        return 1.0 if not a.any() and not b.any() else 0.0
    return float(a @ b) / sizes


def psnr(came: Array, reference: Array) -> float:
    """Peak signal-to-noise ratio in dB, the peak being the reference's range."""
    error = float(np.mean((came.astype(np.float64) - reference) ** 2)) if came.size else 0.0
    wide = reference.astype(np.float64)  # of booleans there is no difference
    peak = float(wide.max() - wide.min()) if wide.size else 0.0
    return _decibels(peak**2, error)


def snr(came: Array, reference: Array) -> float:
    """Signal-to-noise ratio in dB."""
    return _decibels(
        float(np.sum(reference.astype(np.float64) ** 2)), float(np.sum((came.astype(np.float64) - reference) ** 2))
    )


def top1(came: Array, reference: Array) -> float:
    """Share of rows (along the last axis) whose largest element is the same."""
    if came.ndim == 0 or not came.size:
        return 1.0
    return float(np.mean(came.argmax(-1) == reference.argmax(-1)))


def relative(came: Array, reference: Array) -> tuple[float, float]:
    """Compute the largest and the mean relative error of an element."""
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.abs(came.astype(np.float64) - reference) / (np.abs(reference) + 1e-7)
    return float(errors.max(initial=0.0)), float(errors.mean()) if errors.size else 0.0


def exporters(came: Array, reference: Array) -> bool:
    """Whether the exporter's own verification would say nothing."""
    largest = float(np.abs(came.astype(np.float64) - reference).max(initial=0.0))
    return largest < 5e-3 and relative(came, reference)[0] < 0.1


#: Each rule with its name: True where it passes.
RULES: Mapping[str, Callable[[Array, Array], bool]] = {
    "allclose 1e-3": lambda came, reference: allclose(came, reference, 1e-3),
    "allclose 1e-5": lambda came, reference: allclose(came, reference, 1e-5),
    "cosine > 0.997": lambda came, reference: cosine(came, reference) > COSINE,
    "PSNR >= 30 dB": lambda came, reference: psnr(came, reference) >= PSNR,
    "torch's verify": exporters,
    "top-1 equal": lambda came, reference: top1(came, reference) == 1.0,
}


def verdicts(came: Array, reference: Array) -> dict[str, bool]:
    """Apply each rule; all of them say False where shapes differ."""
    if came.shape != reference.shape:
        return dict.fromkeys(RULES, False)
    return {name: rule(came, reference) for name, rule in RULES.items()}


def figures(came: Array, reference: Array) -> dict[str, float | None]:
    """Compute the figures behind them, of two arrays of one shape; what is infinite or NaN becomes None."""
    worst, mean = relative(came, reference)
    rows = {
        "cosine": cosine(came, reference),
        "psnr_db": psnr(came, reference),
        "snr_db": snr(came, reference),
        "top1": top1(came, reference),
        "max_abs": float(np.abs(came.astype(np.float64) - reference).max(initial=0.0)),
        "max_rel": worst,
        "mean_rel": mean,
    }
    return {name: value if math.isfinite(value) else None for name, value in rows.items()}


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
