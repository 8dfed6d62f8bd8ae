"""Bring an ONNX file that was read into the one form that every later stage takes; what was changed is said.

    inline the file's own functions            convert an opset below the oldest that is known
    leave out operator sets that nobody uses   take constants off the list of inputs where they cannot be overridden
    give every node a name of its own          declare the outputs, and forget inner shapes that contradict the graph

The meaning stays: where operators are replaced, both graphs are run in float64, and must agree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, helper, inliner, version_converter

from attn_export.errors import SubjectError
from attn_export.export.graph.index import STANDARD
from attn_export.export.graph.light import skeleton
from attn_export.export.onnx import ends, order
from attn_export.export.onnx.contract import NEWEST_IR
from attn_export.export.onnx.walk import bodies, graphs, tensors
from attn_export.reparam.fuse_onnx import OPSETS
from attn_export.reparam.proof import end_to_end
from attn_export.untrusted.text import few, first_line

#: The format from which on constants need not be listed as inputs, and those that are may be overridden.
_OVERRIDABLE = 4
#: Both are float64 runs of the same formulas, in another order at most.
_AGREE = 1e-9
#: Names that a sentence lists.
_SHOWN = 4
#: Element types that the newest format we write does not have.
_NEWER = {getattr(TensorProto, name, -1) for name in ("FLOAT4E2M1", "FLOAT8E8M0", "INT2", "UINT2")}


@dataclass(frozen=True)
class Normalised:
    """A model in the one form, and a sentence for each thing that was changed."""

    model: ModelProto
    notes: tuple[str, ...]


def normalise(model: ModelProto, folder: Path | None = None) -> Normalised:
    """Normalise a model that ``read_model`` gave; it may be changed in place.

    Args:
        model: what was read.
        folder: where weights lie that were left outside of it.

    Raises:
        SubjectError: functions do not fit their calls, or a replacement is not what it replaces.
    """
    steps = (_drop_imports, _unlist_constants, _unrepeat_outputs, _name_nodes, _lower_format)
    notes = [step(model) for step in steps]
    for replace in (_inlined, _converted):
        model, note = _replaced(replace, model, folder)
        notes.append(note)
    if any(notes[-2:]):
        _drop_imports(model)
        _name_nodes(model)
    notes += [ends.declare_inputs(model), _declare(model)]
    return Normalised(model, tuple(filter(None, notes)))


def _drop_imports(model: ModelProto) -> str:
    """Leave out operator sets that no node is of: runtimes list their own in everything they write."""
    used = {node.domain for body in bodies(model) for node in body.node}
    used |= {function.domain for function in model.functions}
    unused = [entry for entry in model.opset_import if entry.domain not in used and entry.domain not in STANDARD]
    for entry in unused:
        model.opset_import.remove(entry)
    return f"unused operator sets left out: {few((entry.domain for entry in unused), _SHOWN)}" if unused else ""


def _unlist_constants(model: ModelProto) -> str:
    """Take constants off the list of inputs where the format has them there without meaning that they may change."""
    if model.ir_version >= _OVERRIDABLE:
        return ""
    constants = {tensor.name for tensor in model.graph.initializer}
    listed = [value for value in model.graph.input if value.name in constants]
    for value in listed:
        model.graph.input.remove(value)
    was, model.ir_version = model.ir_version, _OVERRIDABLE
    return f"{len(listed)} weights are no longer listed as inputs, as IR version {was} had it" if listed else ""


def overridable(model: ModelProto) -> str:
    """Say which constants a caller may override, and so nobody may fuse; nothing where there are none."""
    constants = {tensor.name for tensor in model.graph.initializer}
    read = {name for body in bodies(model) for node in body.node for name in node.input}
    found = [value.name for value in model.graph.input if value.name in constants & read]
    if not found:
        return ""
    return (
        f"{len(found)} weights ({few(found, _SHOWN)}) are inputs with a default, which a caller may override, so what"
        " they go into is not fused; if nobody overrides them, take them out of the inputs of the graph"
    )


def _unrepeat_outputs(model: ModelProto) -> str:
    names = [value.name for value in model.graph.output]
    again = sorted(name for name, count in Counter(names).items() if count > 1)
    if not again:
        return ""
    for index in reversed(range(len(names))):
        if names[index] in names[:index]:
            del model.graph.output[index]
    return f"outputs that were listed twice are listed once: {few(again, _SHOWN)}"


def _name_nodes(model: ModelProto) -> str:
    """Give nodes that share a name one each: runtimes refuse the others."""
    renamed = 0
    for graph in graphs(model):
        taken = {node.name for node in graph.node}
        seen: set[str] = set()
        for node in graph.node:
            if node.name and node.name in seen:
                base, number = node.name, len(seen)
                while node.name in taken:
                    node.name, number = f"{base}_{number}", number + 1
                taken.add(node.name)
                renamed += 1
            seen.add(node.name)
    return f"{renamed} nodes had the name of another and got their own" if renamed else ""


def _lower_format(model: ModelProto) -> str:
    """Write down the format that the operators need, not the writer's newest: older runtimes read it, too."""
    newest = max(NEWEST_IR, helper.find_min_ir_version_for(list(model.opset_import), ignore_unknown=True))
    held = {tensor.data_type for tensor in tensors(model)}
    values = [value for graph in graphs(model) for value in (*graph.input, *graph.output, *graph.value_info)]
    held |= {value.type.tensor_type.elem_type for value in values}
    if model.ir_version <= newest or held & _NEWER:
        return ""
    was, model.ir_version = model.ir_version, newest
    return f"IR version {was} is written as {newest}, which its opset needs"


Replace = Callable[[ModelProto], tuple[ModelProto, str]]


def _replaced(replace: Replace, model: ModelProto, folder: Path | None) -> tuple[ModelProto, str]:
    """Replace operators, and run both graphs in float64 on one drawn input.

    Raises:
        SubjectError: they differ.
    """
    new, note = replace(model)
    if not note or new is model:
        return model, note
    order.sort(new)
    try:
        found = end_to_end.compare(model, new, [end_to_end.draw(model, {})], folder)
    except Exception as error:  # the new one cannot be evaluated: its own operators are refused later, by name
        found = first_line(error)
    if isinstance(found, str):
        return new, f"{note}; that this changes nothing could not be shown ({found})"
    if not max(found) <= _AGREE:
        raise SubjectError(f"{note}, but that changes the model: its outputs are {max(found):.2g} off in float64")
    return new, f"{note} (the same in float64, to {max(found):.1g})"


def _inlined(model: ModelProto) -> tuple[ModelProto, str]:
    if not model.functions:
        return model, ""
    names = [function.name for function in model.functions]
    try:
        return inliner.inline_local_functions(model), f"its own functions are written out: {few(names, _SHOWN)}"
    except Exception as error:  # the inliner's errors share no public base
        raise SubjectError(
            f"its functions cannot be written out in place of their calls: {first_line(error)}"
        ) from error


def _converted(model: ModelProto) -> tuple[ModelProto, str]:
    """Convert an opset that is older than any we know."""
    version = next((entry.version for entry in model.opset_import if entry.domain in STANDARD), 0)
    oldest = OPSETS[0]
    if not 0 < version < oldest:
        return model, ""
    try:
        if any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensors(model)):
            raise SubjectError("its weights lie outside of the file")
        return version_converter.convert_version(model, oldest), f"opset {version} is converted to {oldest}"
    except Exception as error:  # the converter's errors share no public base
        return model, f"opset {version} could not be converted to {oldest} ({first_line(error)}); it stays as it is"


def _declare(model: ModelProto) -> str:
    """Fill in what outputs are, and drop inner shapes that contradict the graph: their writers left them behind."""
    bare = skeleton(model)
    del bare.graph.value_info[:]
    for value in bare.graph.output:
        value.type.Clear()
    try:
        graph = onnx.shape_inference.infer_shapes(bare).graph
    except Exception:  # operators that inference does not know: what is declared stays
        return ""
    inferred = {value.name: value for value in (*graph.value_info, *graph.output)}
    filled = []
    for value in model.graph.output:
        known = inferred.get(value.name)
        if known is not None and known.type.WhichOneof("value") == "tensor_type" and not _fits(value, known):
            value.type.CopyFrom(known.type)
            filled.append(value.name)
    stale = [
        value for value in model.graph.value_info if value.name in inferred and not _fits(value, inferred[value.name])
    ]
    for value in stale:
        model.graph.value_info.remove(value)
    said = [f"outputs declared as the graph makes them: {few(filled, _SHOWN)}"] if filled else []
    said += [f"{len(stale)} inner shapes that the graph contradicts are left out"] if stale else []
    return "; ".join(said)


def _fits(declared: onnx.ValueInfoProto, made: onnx.ValueInfoProto) -> bool:
    """Whether a declaration says as much as the graph shows, and nothing else."""
    mine, its = declared.type.tensor_type, made.type.tensor_type
    if declared.type.WhichOneof("value") not in (None, "tensor_type"):
        return True
    if its.elem_type and mine.elem_type != its.elem_type:
        return False
    if not its.HasField("shape"):
        return True
    if not mine.HasField("shape") or len(mine.shape.dim) != len(its.shape.dim):
        return False
    pairs = zip(mine.shape.dim, its.shape.dim, strict=True)
    return all(a.dim_value == b.dim_value for a, b in pairs if a.HasField("dim_value") and b.HasField("dim_value"))
