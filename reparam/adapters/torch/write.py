"""Small graph → PyTorch: new modules in place of what died; everything else keeps its place and its names."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from attn_export.reparam import ir

_CONVOLUTIONS: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Callable[..., nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}


def rebuild(exported: fx.GraphModule, after: ir.Graph) -> fx.GraphModule:
    """A new graph module in float64: what survives under its own names, what is new under ``place.fused``."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(exported.graph, copied)
    end = graph.output(_structured(exported, graph, output))
    end.meta = next(n for n in exported.graph.nodes if n.op == "output").meta
    hosts = {n.name: copied[n] for n in exported.graph.nodes if n in copied}
    taken = {str(n.target) for n in graph.nodes if n.op == "get_attr"}
    attributes: dict[str, Any] = {}
    made: dict[str, fx.Node] = {}
    for node in after.nodes:
        if node.host is not None:
            continue
        source = made.get(node.inputs[0]) or hosts[node.inputs[0]]
        old = hosts.get(node.output)
        anchor = old if old is not None else hosts[node.output.split(":fused")[0]]
        with graph.inserting_before(anchor):
            new = _insert(graph, node, source, after, attributes, taken)
        made[node.output] = new
        if old is not None:
            new.meta = dict(old.meta)
            old.replace_all_uses_with(new)
    _sweep(graph)
    for name in dict.fromkeys(str(n.target) for n in graph.nodes if n.op == "get_attr"):
        if name not in attributes:
            attributes[name] = _attribute(exported, name)
    for name in dict.fromkeys(str(n.target) for n in graph.nodes if n.op == "call_module"):
        if name not in attributes:
            attributes[name] = copy.deepcopy(exported.get_submodule(name))
    root = nn.Module()
    for name, value in attributes.items():
        _plant(root, name, value)
    graph.lint()
    return fx.GraphModule(root, graph, type(exported).__name__)


def _structured(exported: fx.GraphModule, graph: fx.Graph, flat: Any) -> Any:
    """Give outputs their structure in the graph itself; keep the exporter's own calling code where that cannot be."""
    codegen: Any = exported.graph._codegen
    info = getattr(codegen, "pytree_info", None)
    if info is None:
        return flat
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        shaped = torch.utils._pytree.tree_unflatten(list(flat), info.out_spec)
    if len(info.orig_args) == len([n for n in graph.nodes if n.op == "placeholder"]) and isinstance(
        shaped, fx.Node | tuple | list | dict
    ):
        return shaped
    graph.set_codegen(copy.copy(codegen))
    return flat


def _sweep(graph: fx.Graph) -> None:
    """Remove what nobody reads; everything exported is functional."""
    for node in reversed(list(graph.nodes)):
        if node.op not in ("placeholder", "output") and not node.users:
            graph.erase_node(node)


def _attribute(module: nn.Module, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part)
    if isinstance(found, nn.Parameter):
        wide = found.detach().double() if found.is_floating_point() else found.detach()
        return nn.Parameter(wide.clone(), requires_grad=found.requires_grad)
    return (
        found.detach().clone().double()
        if isinstance(found, Tensor) and found.is_floating_point()
        else copy.deepcopy(found)
    )


def _plant(root: nn.Module, path: str, value: Any) -> None:
    """Set a nested attribute, making modules on the way."""
    *parents, leaf = path.split(".")
    for part in parents:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if isinstance(value, nn.Module):
        root.add_module(leaf, value)
    elif isinstance(value, nn.Parameter):
        root.register_parameter(leaf, value)
    elif isinstance(value, Tensor):
        root.register_buffer(leaf, value)
    else:
        setattr(root, leaf, value)


def _insert(
    graph: fx.Graph, node: ir.Node, x: fx.Node, after: ir.Graph, attributes: dict[str, Any], taken: set[str]
) -> fx.Node:
    """Insert one operator of the small graph."""
    op = node.op
    name, number = f"{node.scope}.fused".lstrip("."), 1
    while name in taken:
        number += 1
        name = f"{node.scope}.fused{number}".lstrip(".")
    match op:
        case ir.Conv():
            taken.add(name)
            rank = len(op.pads)
            even = all(left == right for left, right in op.pads)
            if not even:
                x = graph.call_function(F.pad, (x, [n for pair in reversed(op.pads) for n in pair]))
            attributes[name] = _loaded(
                _CONVOLUTIONS[rank](
                    op.weight.shape[1] * op.groups,
                    len(op.weight),
                    op.weight.shape[2:],
                    op.strides,
                    tuple(left for left, _ in op.pads) if even else 0,
                    op.dilations,
                    op.groups,
                    op.bias is not None,
                    dtype=torch.float64,
                ),
                op.weight,
                op.bias,
            )
            return graph.call_module(name, (x,))
        case ir.ConvTranspose():
            taken.add(name)
            # PyTorch crops both ends alike and adds at the end; what that cannot say is cropped behind.
            extra = tuple(e + left - right for e, (left, right) in zip(op.extra, op.pads, strict=True))
            shown = all(0 <= e < s for e, s in zip(extra, op.strides, strict=True))
            attributes[name] = _loaded(
                _TRANSPOSED[len(op.pads)](
                    len(op.weight),
                    op.weight.shape[1] * op.groups,
                    op.weight.shape[2:],
                    op.strides,
                    tuple(left for left, _ in op.pads) if shown else 0,
                    extra if shown else op.extra,
                    op.groups,
                    op.bias is not None,
                    op.dilations,
                    dtype=torch.float64,
                ),
                op.weight,
                op.bias,
            )
            y = graph.call_module(name, (x,))
            return y if shown else graph.call_function(F.pad, (y, [-n for pair in reversed(op.pads) for n in pair]))
        case ir.DepthToSpace():
            assert op.crd
            return graph.call_function(F.pixel_shuffle, (x, op.block))
        case ir.Upsample():
            factors = [float(n) for n in op.factors]
            return graph.call_function(F.interpolate, (x, None, factors, "nearest"))
        case ir.Linear():
            taken.add(name)
            linear = nn.Linear(op.weight.shape[0], op.weight.shape[1], op.bias is not None, dtype=torch.float64)
            attributes[name] = _loaded(linear, op.weight.T, op.bias)
            return graph.call_module(name, (x,))
        case ir.Affine():
            taken.add(name)
            for array, what, function in ((op.factor, "scale", torch.mul), (op.term, "shift", torch.add)):
                if array is not None:
                    path = f"{name}.{what}"
                    attributes[path] = nn.Parameter(torch.from_numpy(array.copy()))
                    constant = graph.create_node("get_attr", path)
                    x = graph.call_function(function, (x, constant))
            return x if isinstance(x, fx.Node) and x.op == "call_function" else graph.call_function(torch.clone, (x,))
        case ir.Transpose():
            return graph.call_function(torch.permute, (x, list(op.perm)))
        case ir.Slice():
            index = [slice(None)] * op.axis + [slice(op.start, op.stop, op.step)]
            return graph.call_function(_getitem, (x, tuple(index)))
        case ir.Take():
            path = f"{name}_index"
            attributes[path] = torch.from_numpy(op.index)
            return graph.call_function(torch.index_select, (x, op.axis, graph.create_node("get_attr", path)))
        case ir.Reshape() | ir.Flatten():
            shape = after.values[node.output].shape
            assert shape is not None
            return graph.call_function(torch.reshape, (x, [n if isinstance(n, int) else -1 for n in shape]))
    raise AssertionError(f"the plan never writes {op}")


def _getitem(x: Tensor, index: Any) -> Tensor:
    """Index a tensor; a function, so that the module can be exported again."""
    return x[index]


def _loaded(layer: Any, weight: Any, bias: Any) -> nn.Module:
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight.copy()))
        if bias is not None:
            layer.bias.copy_(torch.from_numpy(bias.copy()))
    assert isinstance(layer, nn.Module)
    return layer.eval()
