"""Small graph → PyTorch: new modules in place of what died; everything else keeps its place and its names."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from attn_export.reparam import ir
from attn_export.reparam.types import Dim

_CONVOLUTIONS: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Callable[..., nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}


def rebuild(exported: fx.GraphModule, after: ir.Graph) -> fx.GraphModule:
    """Return a new graph module in float64: what survives under its own names, what is new under ``place.fused``."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(exported.graph, copied)
    _loosen_views(graph)
    end = graph.output(_structured(exported, graph, output))
    end.meta = next(n for n in exported.graph.nodes if n.op == "output").meta
    attributes = _insert_all(graph, {n.name: copied[n] for n in exported.graph.nodes if n in copied}, after)
    _sweep(graph)
    for name in _targets(graph, "get_attr"):
        if name not in attributes:
            attributes[name] = _attribute(exported, name)
    for name in _targets(graph, "call_module"):
        if name not in attributes:
            attributes[name] = copy.deepcopy(exported.get_submodule(name))
    root = nn.Module()
    for name, value in attributes.items():
        _set_nested(root, name, value)
    graph.lint()
    return fx.GraphModule(root, graph, type(exported).__name__)


def _loosen_views(graph: fx.Graph) -> None:
    """Let a view copy where it must: what is new may lie in memory in another order than what it stands for."""
    for node in graph.nodes:
        if node.target in (torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default):
            node.target = torch.ops.aten.reshape.default


def _insert_all(graph: fx.Graph, hosts: dict[str, fx.Node], after: ir.Graph) -> dict[str, Any]:
    """Insert the new operators where the old producers of their results stand; gives their modules and constants."""
    taken, attributes = set(_targets(graph, "get_attr")), dict[str, Any]()
    made: dict[str, fx.Node] = {}
    for node in after.nodes:
        if node.host is not None:
            continue
        source = made.get(node.inputs[0]) or hosts[node.inputs[0]]
        old = hosts.get(node.output)
        with graph.inserting_before(old if old is not None else hosts[node.output.split(":fused")[0]]):
            place = _Place(graph, node, source, after.values[node.output].shape, attributes, taken)
            new = _WRITERS[type(node.op)](node.op, place)
        made[node.output] = new
        if old is not None:
            new.meta = dict(old.meta)
            old.replace_all_uses_with(new)
    return attributes


def _targets(graph: fx.Graph, kind: str) -> list[str]:
    return list(dict.fromkeys(str(n.target) for n in graph.nodes if n.op == kind))


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
    for step in name.split("."):
        found = getattr(found, step)
    if isinstance(found, nn.Parameter):
        wide = found.detach().double() if found.is_floating_point() else found.detach()
        return nn.Parameter(wide.clone(), requires_grad=found.requires_grad)
    return (
        found.detach().clone().double()
        if isinstance(found, Tensor) and found.is_floating_point()
        else copy.deepcopy(found)
    )


def _set_nested(root: nn.Module, path: str, value: Any) -> None:
    """Set a nested attribute, making modules on the way."""
    *parents, leaf = path.split(".")
    for step in parents:
        if not hasattr(root, step):
            root.add_module(step, nn.Module())
        root = getattr(root, step)
    if isinstance(value, nn.Module):
        root.add_module(leaf, value)
    elif isinstance(value, nn.Parameter):
        root.register_parameter(leaf, value)
    elif isinstance(value, Tensor):
        root.register_buffer(leaf, value)
    else:
        setattr(root, leaf, value)


@dataclass(frozen=True)
class _Place:
    """Where one operator is written: the graph, the node it reads, and the attributes and names given so far."""

    graph: fx.Graph
    node: ir.Node
    x: fx.Node
    shape: tuple[Dim, ...] | None
    attributes: dict[str, Any]
    taken: set[str]

    def free_name(self) -> str:
        """Return the first free name in the scope of the node."""
        name, number = f"{self.node.scope}.fused".lstrip("."), 1
        while name in self.taken:
            number += 1
            name = f"{self.node.scope}.fused{number}".lstrip(".")
        return name

    def call_module(self, module: nn.Module, x: fx.Node) -> fx.Node:
        """Call a new module under a name of its own."""
        name = self.free_name()
        self.taken.add(name)
        self.attributes[name] = module
        return self.graph.call_module(name, (x,))

    def constant(self, path: str, value: Tensor) -> fx.Node:
        """Read a new attribute."""
        self.attributes[path] = value
        return self.graph.create_node("get_attr", path)

    def call(self, function: Callable[..., Any], *arguments: Any) -> fx.Node:
        """Call a function."""
        return self.graph.call_function(function, arguments)


def _conv(op: ir.Conv, at: _Place) -> fx.Node:
    even, x = all(left == right for left, right in op.pads), at.x
    if not even:
        x = at.call(F.pad, x, [n for pair in reversed(op.pads) for n in pair])
    layer = _CONVOLUTIONS[len(op.pads)](
        op.weight.shape[1] * op.groups,
        len(op.weight),
        op.weight.shape[2:],
        op.strides,
        tuple(left for left, _ in op.pads) if even else 0,
        op.dilations,
        op.groups,
        op.bias is not None,
        dtype=torch.float64,
    )
    return at.call_module(_loaded(layer, op.weight, op.bias), x)


def _conv_transpose(op: ir.ConvTranspose, at: _Place) -> fx.Node:
    # PyTorch crops both ends alike and adds at the end; what that cannot say is cropped behind.
    extra = tuple(e + left - right for e, (left, right) in zip(op.extra, op.pads, strict=True))
    shown = all(0 <= e < s for e, s in zip(extra, op.strides, strict=True))
    layer = _TRANSPOSED[len(op.pads)](
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
    )
    y = at.call_module(_loaded(layer, op.weight, op.bias), at.x)
    return y if shown else at.call(F.pad, y, [-n for pair in reversed(op.pads) for n in pair])


def _linear(op: ir.Linear, at: _Place) -> fx.Node:
    layer = nn.Linear(op.weight.shape[0], op.weight.shape[1], op.bias is not None, dtype=torch.float64)
    return at.call_module(_loaded(layer, op.weight.T, op.bias), at.x)


def _affine(op: ir.Affine, at: _Place) -> fx.Node:
    name, y = at.free_name(), at.x
    at.taken.add(name)
    for array, what, function in ((op.factor, "scale", torch.mul), (op.term, "shift", torch.add)):
        if array is not None:
            constant = at.constant(f"{name}.{what}", nn.Parameter(torch.from_numpy(array.copy())))
            y = at.call(function, y, constant)
    return y if y.op == "call_function" else at.call(torch.clone, y)


def _depth_to_space(op: ir.DepthToSpace, at: _Place) -> fx.Node:
    assert op.crd
    return at.call(F.pixel_shuffle, at.x, op.block)


def _upsample(op: ir.Upsample, at: _Place) -> fx.Node:
    return at.call(F.interpolate, at.x, None, [float(n) for n in op.factors], "nearest")


def _transpose(op: ir.Transpose, at: _Place) -> fx.Node:
    return at.call(torch.permute, at.x, list(op.perm))


def _slice(op: ir.Slice, at: _Place) -> fx.Node:
    index = [slice(None)] * op.axis + [slice(op.start, op.stop, op.step)]
    return at.call(_getitem, at.x, tuple(index))


def _take(op: ir.Take, at: _Place) -> fx.Node:
    # The name itself is left to the convolution behind it.
    index = at.constant(f"{at.free_name()}_index", torch.from_numpy(op.index))
    return at.call(torch.index_select, at.x, op.axis, index)


def _reshape(_: ir.Reshape | ir.Flatten, at: _Place) -> fx.Node:
    assert at.shape is not None
    return at.call(torch.reshape, at.x, [n if isinstance(n, int) else -1 for n in at.shape])


#: How each operator that a plan may add is written.
_WRITERS: dict[type[ir.Op], Callable[[Any, _Place], fx.Node]] = {
    ir.Conv: _conv,
    ir.ConvTranspose: _conv_transpose,
    ir.Linear: _linear,
    ir.Affine: _affine,
    ir.DepthToSpace: _depth_to_space,
    ir.Upsample: _upsample,
    ir.Transpose: _transpose,
    ir.Slice: _slice,
    ir.Take: _take,
    ir.Reshape: _reshape,
    ir.Flatten: _reshape,
}


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
