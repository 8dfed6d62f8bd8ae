"""Two graphs' inputs and outputs: which is which, and what one of them has that the other has not.

Inputs and outputs of one name are partners. Where names differ, inputs are paired by position and type, outputs by what
they hold on the same inputs, and then, as many as are left on both sides, by position. What has no partner is lost or
added, and is named; so are outputs that stand in another order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx
from onnx import helper

from attn_export.errors import ExportError
from attn_export.export.graph.index import GraphIndex
from attn_export.export.graph.rename import narrowed, renamed
from attn_export.pipeline.divergence import pairing
from attn_export.pipeline.divergence.runs import Variant
from attn_export.types import Feeds

#: Behind the name of a tensor of another producer that has one of ours by chance.
_STRANGE = " (other)"
#: On how many cases outputs are held against each other.
TOLD_BY = 2


@dataclass(frozen=True)
class Aligned:
    """Two runs whose inputs and outputs have the same names.

    Attributes:
        reference: the one that is held true, with the suspect's names.
        suspect: the other.
        differences: inputs and outputs that only one has, and another order, in words.
        notes: what was paired in spite of its name, in words.
        comparable: whether both can be run and have an output in common.
    """

    reference: Variant
    suspect: Variant
    differences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    comparable: bool = True


def aligned(reference: Variant, suspect: Variant, cases: Sequence[Feeds]) -> Aligned:
    """Give both runs the inputs of the cases and the suspect's outputs, as far as both have them."""
    if reference.graph is None or suspect.graph is None or not cases:
        return Aligned(reference, suspect)
    differences, notes = list[str](), list[str]()
    graphs, fed = list[onnx.ModelProto](), True
    for side, other in ((reference, suspect), (suspect, reference)):
        assert side.graph is not None
        names, unfed = _fed(side.graph, cases[0])
        notes += [f"input {old!r} of {side.text} is {new!r} here: same place and type" for old, new in names.items()]
        differences += [f"input {name!r} of {side.text} is missing in {other.text}" for name in unfed]
        fed = fed and not unfed
        graphs.append(renamed(side.graph, names) if names else side.graph)
    differences += _unread(reference, suspect, graphs, cases[0]) if fed else []
    if not fed:
        return Aligned(reference, suspect, tuple(differences), tuple(notes), comparable=False)
    right, ours = graphs
    pairs = _outputs(ours, right, cases[:TOLD_BY])
    notes += [
        f"output {name!r} of {suspect.text} is held against {partner!r} of {reference.text}: {how}"
        for name, (partner, how) in pairs.items()
        if how
    ]
    differences += _unpaired(reference, suspect, right, ours, {name: partner for name, (partner, _) in pairs.items()})
    if not pairs:
        return Aligned(reference, suspect, tuple(differences), tuple(notes), comparable=False)
    ours, right = _narrowed(ours, pairs.keys()), _narrowed(right, {partner for partner, _ in pairs.values()})
    if any(how for _, how in pairs.values()):
        right = _with_names_of(ours, right, {name: partner for name, (partner, _) in pairs.items()}, cases[:TOLD_BY])
    both = replace(reference, graph=right), replace(suspect, graph=ours)
    return Aligned(*both, tuple(differences), tuple(notes))


def _fed(model: onnx.ModelProto, feeds: Feeds) -> tuple[dict[str, str], list[str]]:
    """Say which input takes which of the fed names, where its own is not fed; and which gets none."""
    index = GraphIndex(model)
    left = [name for name in feeds if name not in {value.name for value in index.inputs}]
    names, unfed = dict[str, str](), list[str]()
    for value in index.inputs:
        if value.name in feeds:
            continue
        kind, rank = index.element_type(value.name), index.rank(value.name)
        fits = (
            name
            for name in left
            if helper.np_dtype_to_tensor_dtype(feeds[name].dtype) == kind and rank in (-1, feeds[name].ndim)
        )
        if (name := next(fits, None)) is None:
            unfed.append(value.name)
        else:
            left.remove(name)
            names[value.name] = name
    return names, unfed


def _unread(reference: Variant, suspect: Variant, graphs: Sequence[onnx.ModelProto], feeds: Feeds) -> list[str]:
    """Name the inputs that only one of the two takes."""
    right, ours = ({value.name for value in GraphIndex(graph).inputs} & feeds.keys() for graph in graphs)
    lost = [
        f"input {name!r} of {reference.text} is missing in {suspect.text}" for name in feeds if name in right - ours
    ]
    more = [
        f"input {name!r} of {suspect.text} is missing in {reference.text}" for name in feeds if name in ours - right
    ]
    return lost + more


def _names(model: onnx.ModelProto) -> list[str]:
    return list(dict.fromkeys(value.name for value in model.graph.output))


def _outputs(ours: onnx.ModelProto, right: onnx.ModelProto, cases: Sequence[Feeds]) -> dict[str, tuple[str, str]]:
    """Pair our outputs with the other's, with how where it is not by name; in our order."""
    mine, theirs = _names(ours), _names(right)
    pairs = {name: (name, "") for name in mine if name in theirs}
    left, open_ = [name for name in mine if name not in pairs], [name for name in theirs if name not in pairs]
    if not left or not open_:
        return pairs
    try:
        seen, known = pairing.prints(ours, cases, left), pairing.prints(right, cases, open_)
    except ExportError:  # an operator of another domain: what is declared must do
        seen, known = {}, {}
    pairs |= {name: (partner, "same values") for name, partner in pairing.by_value(seen, known).items()}
    used = {partner for partner, _ in pairs.values()}
    left, open_ = [name for name in left if name not in pairs], [name for name in open_ if name not in used]
    if len(left) == len(open_) and all(_alike(a, b, seen, known) for a, b in zip(left, open_, strict=True)):
        pairs |= {name: (partner, "same place") for name, partner in zip(left, open_, strict=True)}
    return {name: pairs[name] for name in mine if name in pairs}


def _alike(name: str, partner: str, seen: Mapping[str, pairing.Print], known: Mapping[str, pairing.Print]) -> bool:
    if name in seen and partner in known:
        return seen[name].shape == known[partner].shape
    return not seen and not known


def _unpaired(
    reference: Variant, suspect: Variant, right: onnx.ModelProto, ours: onnx.ModelProto, pairs: Mapping[str, str]
) -> list[str]:
    """Name the outputs that only one of the two has, and say where they stand in another order."""
    mine, theirs = _names(ours), _names(right)
    found = [
        f"output {n!r} of {reference.text} is missing in {suspect.text}" for n in theirs if n not in pairs.values()
    ]
    found += [f"output {name!r} of {suspect.text} is missing in {reference.text}" for name in mine if name not in pairs]
    places = [theirs.index(pairs[name]) for name in mine if name in pairs]
    if places != sorted(places):
        order = [name for name in theirs if name in pairs.values()]
        found.append(
            f"the outputs stand in another order: {', '.join(name for name in mine if name in pairs)} in"
            f" {suspect.text}, {', '.join(order)} in {reference.text}"
        )
    return found


def _narrowed(model: onnx.ModelProto, outputs: Iterable[str]) -> onnx.ModelProto:
    kept = set(outputs)
    return model if kept == set(_names(model)) else narrowed(model, kept)


def _with_names_of(
    ours: onnx.ModelProto, right: onnx.ModelProto, outputs: Mapping[str, str], cases: Sequence[Feeds]
) -> onnx.ModelProto:
    """Give the tensors of another producer's graph our names, where they are ours; other names of ours they give up."""
    pairs = dict(outputs)
    made = [[name for node in model.graph.node for name in node.output if name] for model in (ours, right)]
    try:
        inner = (
            pairing.prints(model, cases[:1], [n for n in names if n not in taken])
            for model, names, taken in ((ours, made[0], pairs.keys()), (right, made[1], set(pairs.values())))
        )
        pairs |= pairing.by_value(*inner)
    except ExportError:
        pass
    inputs = {value.name: value.name for value in GraphIndex(ours).inputs}
    pairs = pairing.by_place(ours, right, pairs | inputs)
    names = {partner: name for name, partner in pairs.items() if name not in inputs}
    strange = {name: f"{name}{_STRANGE}" for name in made[1] if name in set(made[0]) and name not in names}
    return renamed(right, strange | names)
