"""Take some of a file's outputs, under names of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
from onnx import helper

from attn_export.export.chosen import choose, unchosen
from attn_export.export.graph.index import graph_inputs
from attn_export.export.graph.rename import narrowed, renamed
from attn_export.reparam.adapters.onnx.nodes import inputs_of


def chosen(model: onnx.ModelProto, words: Sequence[str], owner: str) -> tuple[onnx.ModelProto, dict[str, str], str]:
    """Give the model with the outputs that ``words`` choose, what was chosen, and what is left out; itself without any.

    Raises:
        UsageError: there is no such output.
    """
    if not words:
        return model, {}, ""
    known = [value.name for value in model.graph.output]
    names = choose(words, known, [value.name for value in graph_inputs(model)], owner)
    return taken(model, names), names, unchosen(known, names)


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
    _drop_unread(made)
    return made


def _drop_unread(model: onnx.ModelProto) -> None:
    """Take out the constants that nothing reads any more."""
    read = {name for node in model.graph.node for name in inputs_of(node)} | {v.name for v in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
