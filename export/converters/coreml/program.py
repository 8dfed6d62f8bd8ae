"""What a traced PyTorch program says of its structure: its operators with weights, and the tensors that they are fed.

What depends on no input is left out, for a converter computes it beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram
from torch.fx import Node

#: Operators that multiply matrices, with the place of the operand whose last dimension is summed over.
MATRIX = {"linear": 0, "matmul": 0, "mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}
CONVOLUTION = ("convolution", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
#: Operators that move numbers, and change none.
MOVING = ("permute", "t", "transpose", "view", "reshape", "unsqueeze", "squeeze", "alias", "clone", "_to_copy")
#: Element type and shape.
Port = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Structure:
    """What two forms of a program have in common where they are one program.

    Attributes:
        inputs: element type and shape of each.
        outputs: the same.
        convolutions: the multiplications of each, in order of size.
        matrices: the same of each product of matrices.
        weights: the tensors of more than one number that are part of the program, as bits.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    convolutions: tuple[int, ...]
    matrices: tuple[int, ...]
    weights: tuple[NDArray[Any], ...]


def structure(program: ExportedProgram) -> Structure:
    """Read a program that takes its inputs at fixed sizes."""
    varying = _varying(program)
    convolutions = [_convolved(node) for node in varying if _name(node) in CONVOLUTION]
    matrices = [_multiplied(node) for node in varying if _name(node) in MATRIX]
    given = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    return Structure(
        tuple(map(_port, given)),
        tuple(map(_port, program.graph.output_node().args[0])),
        tuple(sorted(convolutions)),
        tuple(sorted(matrices)),
        tuple(_weights(program, varying)),
    )


def without_aliases(program: ExportedProgram) -> ExportedProgram:
    """Give a program in which no tensor has a second name: an operator that coremltools does not know."""
    given = set(program.graph_signature.user_outputs)
    for node in [node for node in program.graph.nodes if _name(node) == "alias" and node.name not in given]:
        node.replace_all_uses_with(node.args[0])
        program.graph.erase_node(node)
    program.graph_module.recompile()
    return program


def _port(node: Node) -> Port:
    return str(node.meta["val"].dtype).removeprefix("torch."), _sizes(node)


def _name(node: Node) -> str:
    return str(node.target).removeprefix("aten.").partition(".")[0] if node.op == "call_function" else ""


def _varying(program: ExportedProgram) -> dict[Node, None]:
    """Find the nodes that depend on an input, in their order."""
    inputs, found = set(program.graph_signature.user_inputs), dict[Node, None]()
    for node in program.graph.nodes:
        own = node.op == "placeholder" and node.name in inputs
        if own or any(one in found for one in node.all_input_nodes):
            found[node] = None
    return found


def _sizes(node: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in node.meta["val"].shape)


def _convolved(node: Node) -> int:
    """Count the multiplications of a convolution: of each number that comes, or of a transposed one, that goes in."""
    x, weight = node.args[0], _sizes(node.args[1])
    transposed = "transpose" in _name(node) or (_name(node) == "convolution" and bool(node.args[6]))
    return math.prod(_sizes(x) if transposed else _sizes(node)) * math.prod(weight[1:])


def _multiplied(node: Node) -> int:
    return math.prod(_sizes(node)) * _sizes(node.args[MATRIX[_name(node)]])[-1]


def _weights(program: ExportedProgram, varying: dict[Node, None]) -> Iterator[NDArray[Any]]:
    """Give what goes into nodes that depend on an input, each tensor once, moved as the program moves it."""
    signature = program.graph_signature
    named = signature.inputs_to_parameters | signature.inputs_to_buffers | signature.inputs_to_lifted_tensor_constants
    values = dict[Node, torch.Tensor]()
    for node in program.graph.nodes:
        if node in varying:
            continue
        if node.op == "placeholder" and node.name in named:
            tensor = program.state_dict.get(named[node.name], program.constants.get(named[node.name]))
            if isinstance(tensor, torch.Tensor):
                values[node] = tensor.detach()
        elif _name(node) in MOVING and node.args[0] in values:
            values[node] = node.target(values[node.args[0]], *node.args[1:], **node.kwargs)
        value = values.get(node)
        if value is None or value.numel() < 2 or not any(user in varying for user in node.users):
            continue
        if value.is_floating_point():
            yield np.ascontiguousarray(value.to(torch.float32).numpy())
