"""What an export promises of its inputs: the sizes that its trace holds for, the integers that its tables hold."""

from __future__ import annotations

from dataclasses import replace

from attn_export.export.graph import tables
from attn_export.export.onnx.beyond import STOPS, compared
from attn_export.export.onnx.exported import Exported
from attn_export.export.subject import Subject
from attn_export.types import Dim


def kept(subject: Subject, exported: Exported) -> tuple[Subject, tuple[str, ...]]:
    """Return the subject with the sizes and integers that its export holds for, and what to warn of."""
    rows = tables.rows(exported.model)
    inputs = tuple(
        replace(item, high=rows[item.name]) if item.name in rows and item.within is None else item
        for item in subject.inputs
    )
    asked = {dim.name: dim for dim in subject.dynamic}
    said = [_said(subject, exported, asked[dim.name], dim) for dim in exported.contract.dims]
    return replace(subject, inputs=inputs, dynamic=exported.contract.dims), tuple(filter(None, said))


def _said(subject: Subject, exported: Exported, asked: Dim, given: Dim) -> str:
    """Say what tracing assumed of a dimension, where the module goes on beyond it; nothing where it stops there too."""
    assumed, beyond = [], list[int]()
    if given.step != asked.step:
        assumed.append(f"multiples of {given.step}")
        beyond.append(subject.sizes[given.name] + asked.step)
    if given.max is not None and given.max != asked.max:
        assumed.append(f"at most {given.max}")
        beyond.append(given.max + asked.step)
    if given.min != asked.min:
        assumed.append(f"at least {given.min}")
        beyond.append(max(1, given.min - asked.step))
    found = {size: compared(subject, exported.model, {given.name: size}) for size in beyond}
    if not (goes_on := {size: text for size, text in found.items() if text != STOPS}):
        return ""
    size, text = next(iter(goes_on.items()))
    text = text or "it was not checked, though graph and module agree"
    most = "any size" if given.max is None else str(given.max)
    steps = f" in steps of {given.step}" if given.step > 1 else ""
    return (
        f"dimension {given.name}: tracing assumed {' and '.join(assumed)}; at {given.name}={size} {text}, so the bundle"
        f" promises {given.min} to {most}{steps}; look in forward for a comparison of sizes"
    )
