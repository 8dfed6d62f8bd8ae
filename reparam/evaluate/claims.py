"""Which operators the evaluation claims to know, from which opset on, and why it refuses the others.

A refusal names the operator and its opset; what is not refused here is evaluated, and ``docs/operators.md`` shows how
much of the ONNX project's own test data agrees.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import AttributeProto, NodeProto, defs, helper

from attn_export.errors import ExportError
from attn_export.reparam.adapters.onnx.nodes import subgraphs

#: Before this opset Cast named its type by a word, every operator worked in place, and more of the kind.
OLDEST = 6
#: Operators that may be older, for their meaning never changed.
_EVER = frozenset({"Not"})
#: Versions of operators that came after this opset are not known here, whatever the installed onnx knows.
NEWEST = 28
_DICE = "it draws random numbers: no two runs agree"
_TRAINING = "it is made for training"
REFUSED = {
    "Bernoulli": _DICE,
    "Multinomial": _DICE,
    "RandomNormal": _DICE,
    "RandomNormalLike": _DICE,
    "RandomUniform": _DICE,
    "RandomUniformLike": _DICE,
    "MaxRoiPool": "the standard does not say how its regions are rounded",
    "ai.onnx.preview.training.Adagrad": _TRAINING,
    "ai.onnx.preview.training.Adam": _TRAINING,
    "ai.onnx.preview.training.Gradient": _TRAINING,
    "ai.onnx.preview.training.Momentum": _TRAINING,
}
#: Domains of the ONNX project.
_STANDARD = ("", "ai.onnx.ml", "ai.onnx.preview", "ai.onnx.preview.training")
#: Of classical machine learning only what the test data shows to be right.
_LEARNED = frozenset({"ArrayFeatureExtractor", "Binarizer", "LabelEncoder", "TreeEnsemble"})


class RefusedOperatorError(ExportError):
    """An operator, a version or a use of one that the evaluation does not claim."""

    def __init__(self, message: str, operator: str, opset: int, reason: str) -> None:
        super().__init__(message)
        self.operator, self.opset, self.reason = operator, opset, reason


class UnclaimedOperator(Exception):  # noqa: N818 -- raised where the node's name is not known; becomes the error above
    """Why a node is refused."""


def domain(name: str) -> str:
    """Normalise the name of a domain; the standard's own has two."""
    return "" if name == "ai.onnx" else name


def full_name(node: NodeProto) -> str:
    """Return the operator's name, behind its domain if that is not the standard's own."""
    own = domain(node.domain)
    return f"{own}.{node.op_type}" if own else node.op_type


def reason_of(name: str) -> str:
    """Why an operator, by its full name, is refused whatever it is asked to do; nothing if it is not."""
    own, _, plain = name.rpartition(".")
    if own == "ai.onnx.ml" and plain not in _LEARNED:
        return "no test data shows what it means"
    return REFUSED.get(name, "")


def check(node: NodeProto, opset: int) -> None:
    """Refuse a node whose operator is not claimed.

    Raises:
        Refusal: with the reason.
    """
    name, own = full_name(node), domain(node.domain)
    if why := reason_of(name):
        raise UnclaimedOperator(why)
    if own not in _STANDARD:
        raise UnclaimedOperator(f"domain {own!r} is not the standard's, and the model brings no function of that name")
    try:
        schema = defs.get_schema(node.op_type, opset, own)
    except defs.SchemaError as error:
        raise UnclaimedOperator("there is no such operator") from error
    if own == "" and opset < OLDEST and name not in _EVER:
        raise UnclaimedOperator(f"only opsets from {OLDEST} on are known")
    if own == "" and schema.since_version > NEWEST:
        raise UnclaimedOperator(f"its meaning changed in opset {schema.since_version}; known up to {NEWEST}")


def defaults(node: NodeProto, opset: int, names: Sequence[str]) -> list[AttributeProto]:
    """Attributes that the node leaves to the standard, where the reference would take another default.

    Those of the given names name a type: float32 where it should be ours.
    """
    try:
        schema = defs.get_schema(node.op_type, opset, domain(node.domain))
    except defs.SchemaError:
        return []
    if node.op_type == "RoiAlign" and opset < 16:  # newer ones default to half a pixel
        return [helper.make_attribute("coordinate_transformation_mode", "output_half_pixel")]
    left = {name for name in names if name in schema.attributes} - {a.name for a in node.attribute}
    defaults = [schema.attributes[name].default_value for name in sorted(left)]
    return [default for default in defaults if default.type == AttributeProto.INT]


def refused(node: NodeProto, opset: int, refusal: UnclaimedOperator, dtype: str) -> RefusedOperatorError:
    """Make the error that names the node."""
    where = f"opset {opset}" + (f" of {domain(node.domain)}" if domain(node.domain) else "")
    said = f"{node.op_type} {node.name!r} cannot be evaluated in {dtype}: {refusal} ({where})"
    return RefusedOperatorError(said, full_name(node), opset, str(refusal))


def draws(node: NodeProto) -> bool:
    """Whether a node draws random numbers, whatever it is asked to do."""
    return REFUSED.get(full_name(node)) == _DICE


def random_operators(model: onnx.ModelProto) -> list[str]:
    """Operators of the graph, its sub-graphs and functions that draw random numbers, each once."""
    found: dict[str, None] = {}
    todo = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while todo:
        node = todo.pop()
        if draws(node):
            found[node.op_type] = None
        for graph in subgraphs(node):
            todo.extend(graph.node)
    return sorted(found)
