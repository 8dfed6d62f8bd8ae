"""Take some of a file's outputs, or of its inner tensors, under names of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import helper

from attn_export.errors import UsageError
from attn_export.export.chosen import choose, unchosen
from attn_export.export.graph.index import GraphIndex, graph_inputs
from attn_export.export.graph.rename import narrowed, renamed
from attn_export.export.graph.unread import without_unread_constants


def chosen(model: onnx.ModelProto, words: Sequence[str], owner: str) -> tuple[onnx.ModelProto, dict[str, str], str]:
    """Give the model with the outputs that ``words`` choose, what was chosen, and what is left out; itself without any.

    A tensor inside the graph is one as well, by its name: what enters NonMaxSuppression, for instance.

    Raises:
        UsageError: there is no such output.
    """
    if not words:
        return model, {}, ""
    known = [value.name for value in model.graph.output]
    inner = [name for name in _named(words) if name not in known and name in GraphIndex(model).maker]
    names = choose(words, [*known, *inner], [value.name for value in graph_inputs(model)], owner)
    return taken(_given(model, inner), names), names, unchosen(known, names)


def _named(words: Sequence[str]) -> list[str]:
    """List the tensors that ``words`` may mean: whole, or behind the sign of equality."""
    return list(dict.fromkeys(name for word in words for name in (word, word.partition("=")[2]) if name))


def _given(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Copy a model so that it gives some of its inner tensors as well.

    Raises:
        UsageError: the type of one is not known.
    """
    if not names:
        return model
    made, index = onnx.ModelProto(), GraphIndex(model)
    made.CopyFrom(model)
    for name in names:
        declared = index.declared(name)
        if declared is None or not declared.type.tensor_type.elem_type:
            raise UsageError(f"--outputs: nothing in the file says of which type {name!r} is; choose another tensor")
        made.graph.output.append(declared)
    return made


def taken(model: onnx.ModelProto, names: Mapping[str, str]) -> onnx.ModelProto:
    """Copy a model so that it gives these outputs, by new name the old one, in this order."""
    made = narrowed(model, names.values())
    computed = {name for node in made.graph.node for name in node.output}
    # An input or a constant that is given as it is keeps its name.
    given = {new: old for new, old in names.items() if new != old and old not in computed}
    made.graph.node.extend(helper.make_node("Identity", [old], [new], f"give_{new}") for new, old in given.items())
    for value in made.graph.output:
        value.name = next((new for new, old in given.items() if old == value.name), value.name)
    made = renamed(made, {old: new for new, old in names.items() if new not in given})
    by_name = {value.name: value for value in made.graph.output}
    del made.graph.output[:]
    made.graph.output.extend(by_name[new] for new in names)
    without_unread_constants(made)
    return made
