"""Fuse a PyTorch module: export, plan, prove each site, and give an ``nn.Module`` with a state dict back."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from attn_export.errors import FusionError
from attn_export.reparam import certify, ir
from attn_export.reparam.adapters.torch_export import Reader
from attn_export.reparam.fusion import CERTIFICATE_BOUND, Certificate, Fusion
from attn_export.reparam.graph import plan_and_prove

_CONVOLUTIONS: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Callable[..., nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}


def fuse_module(
    module: nn.Module,
    example: tuple[Tensor, ...],
    *,
    dynamic: Any = None,
    cost: str = "cpu",
    keep: Sequence[str] = (),
) -> Fusion[nn.Module]:
    """Return a fused copy of ``module``; ``module`` is not changed.

    The copy is a graph module: parameters that survive keep their names, a collapsed place ``p`` has ``p.fused``,
    and gradients flow. Fused in float64 and rounded once, to the type the module has.

    Args:
        module: in evaluation mode.
        example: inputs to export with and to certify on.
        dynamic: dimensions that may vary, as ``torch.export`` takes them; fusions that hold for the example's
            sizes only are refused there.
        cost: the profile that says what pays.
        keep: patterns of site names whose branches are to stay.

    Raises:
        FusionError: a part is in training mode, or the module cannot be exported.
    """
    training = [name or type(module).__name__ for name, part in module.named_modules() if part.training]
    if training:
        raise FusionError(f"{training[0]} is in training mode; call .eval() on the module before fusing it")
    try:
        with warnings.catch_warnings():  # PyTorch's exporter uses what PyTorch deprecates
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            program = torch.export.export(module, example, dynamic_shapes=dynamic).run_decompositions({})
            exported = program.module(check_guards=False)
    except Exception as error:
        raise FusionError(
            f"{type(module).__name__} cannot be exported ({type(error).__name__}: {str(error).splitlines()[0]}); "
            "fuse its parts one by one, or its ONNX graph with fuse_graph"
        ) from error
    assert isinstance(exported, fx.GraphModule)
    reader = Reader(exported)
    planned = plan_and_prove(reader.graph, cost, keep)
    fused = _rebuild(exported, planned.plan.graph)
    errors = (_compare(module, fused, example),)
    bound = certify.ROUNDED_BOUND if any(p.rounded for p in planned.proofs) else CERTIFICATE_BOUND
    kinds = [v.dtype for v in module.state_dict().values() if v.is_floating_point()]
    return Fusion(
        fused.to(kinds[0] if kinds else torch.float32).eval(),
        planned.sites(reader.graph),
        Certificate(errors, bound),
        planned.refusals,
    )


def _compare(module: nn.Module, fused: nn.Module, example: tuple[Tensor, ...]) -> float:
    """The largest relative error in float64 over all outputs."""
    wide = tuple(x.double() if x.is_floating_point() else x for x in example)
    with torch.no_grad():
        wanted, got = list(_flat(copy.deepcopy(module).double()(*wide))), list(_flat(fused(*wide)))
    errors = [certify.relative_error(g, w) for g, w in zip(got, wanted, strict=True)]
    return max(errors, key=lambda e: (e != e, e), default=0.0)


def _flat(outputs: object) -> Iterable[Tensor]:
    for leaf in torch.utils._pytree.tree_leaves(outputs):
        if isinstance(leaf, Tensor):
            yield leaf if leaf.is_floating_point() else leaf.double()


def _rebuild(exported: fx.GraphModule, after: ir.Graph) -> fx.GraphModule:
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
            attributes[name] = _loaded(
                _TRANSPOSED[len(op.pads)](
                    len(op.weight),
                    op.weight.shape[1] * op.groups,
                    op.weight.shape[2:],
                    op.strides,
                    tuple(left for left, _ in op.pads),
                    op.extra,
                    op.groups,
                    dilation=op.dilations,
                    dtype=torch.float64,
                ),
                op.weight,
                op.bias,
            )
            return graph.call_module(name, (x,))
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
        case ir.Reshape():
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
