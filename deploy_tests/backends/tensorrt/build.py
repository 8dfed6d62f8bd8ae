"""ONNX file to engine, inside the process that ``worker`` runs in: parse, set profiles, build, serialise.

Every call that reports failure by False, None or -1 is checked here, and answered with what the log said.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from attn_export.deploy_tests.backends.tensorrt import bindings, target
from attn_export.deploy_tests.backends.tensorrt.request import Request
from attn_export.deploy_tests.refusal import Complaint, RefusedError
from attn_export.types import ShapeRange

if TYPE_CHECKING:
    import tensorrt

#: Takes severity (``VERBOSE`` … ``ERROR``) and message.
Sink = Callable[[str, str], None]

_PREFIX = re.compile(r"^(?:\w+::\w+: |IBuilder::\w+: )?Error Code \d+: |^In node -?\d+ with name: .*?: (?=\w)")
_PARSING = re.compile(r"Parsing node: (.+) \[(\w+)\]$")
_REGION = "ForeignNode {ForeignNode["
#: Where a target is named, the absence of a driver is no error, yet the libraries log it as one.
_NO_DRIVER = "cudaError 35"


def build(request: Request, sink: Sink) -> bytes:
    """Build the engine and give its bytes.

    Raises:
        RefusedError: the parser, the profile or the builder said no.
    """
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = bindings.load(request.maker)
    errors: list[str] = []
    region: list[str] = []
    nodes: dict[str, str] = {}

    def keep(severity: str, message: str) -> None:
        sink(severity, message)
        if message.startswith(_REGION):
            region[:] = [message]
        if match := _PARSING.match(message):
            nodes[match[1]] = match[2]
        if severity in ("ERROR", "INTERNAL_ERROR") and not (request.sm and _NO_DRIVER in message):
            errors.append(message)

    logger = make_logger(request, keep)
    builder = _builder(request, logger, errors)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    # The parser holds no reference to the network: it must outlive the parser here, or the process crashes.
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(request.model)):
        complaints = [_complaint(parser.get_error(i)) for i in range(parser.num_errors)]
        complaints = complaints or [Complaint("", "", reason) for reason in errors]
        raise RefusedError(f"{request.maker.title} does not parse {request.model}", "parse", complaints)
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if request.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    if request.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace)
    if request.sm:
        target.choose(config, request)
    _profiles(request, builder, network, config, errors)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        complaints = [blame(message, nodes, "".join(region)) for message in errors]
        raise RefusedError(f"{request.maker.title} parses but does not build {request.model}", "build", complaints)
    return bytes(memoryview(plan))


def make_logger(request: Request, sink: Sink) -> tensorrt.ILogger:
    """Make a logger that hands every message on; TensorRT keeps no reference to it, the caller must."""
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = bindings.load(request.maker)

    class Logger(trt.ILogger):  # type: ignore[misc]  # no stubs are published, so the base is Any
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
            sink(severity.name, msg)

    return Logger()


def _builder(request: Request, logger: tensorrt.ILogger, errors: list[str]) -> tensorrt.Builder:
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = bindings.load(request.maker)
    try:
        return trt.Builder(logger)
    except TypeError as error:  # "factory function returned nullptr": no usable driver
        complaints = [Complaint("", "", reason) for reason in errors or [str(error)]]
        raise RefusedError(
            f"{request.maker.title} has no builder", "start", complaints, "it needs an NVIDIA driver on this machine"
        ) from error


def _profiles(
    request: Request,
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    errors: list[str],
) -> None:
    """Set one optimisation profile that covers every input with an open dimension."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    title = f"{request.maker.title} got no usable profile for {request.model}"

    def refuse(reason: str, hint: str = "give least, usual and largest shape with --shapes") -> RefusedError:
        said = [Complaint("", "", text) for text in (reason, *errors)]
        return RefusedError(title, "profile", said, hint)

    if unknown := sorted(set(request.shapes) - {tensor.name for tensor in inputs}):
        known = ", ".join(tensor.name for tensor in inputs)
        raise refuse(f"there is no input {unknown[0]!r}; the inputs are {known}")
    profile = builder.create_optimization_profile()
    opened = False
    for tensor in inputs:
        shape, name = tuple(tensor.shape), tensor.name
        wanted = request.shapes.get(name)
        if -1 not in shape:
            if wanted is not None and not (wanted.min == wanted.opt == wanted.max == shape):
                raise refuse(f"input {name!r} is fixed at {shape}", "export the model with dynamic dimensions")
            continue
        if wanted is None:
            raise refuse(f"input {name!r} has open dimensions {shape} and no range of shapes was given")
        if why := misfit(wanted, shape):
            raise refuse(f"input {name!r} with shapes {_show(wanted)}: {why}")
        try:
            profile.set_shape(name, wanted.min, wanted.opt, wanted.max)
        except (ValueError, RuntimeError) as error:
            raise refuse(f"input {name!r} with shapes {_show(wanted)}: {error}") from error
        opened = True
    if opened and config.add_optimization_profile(profile) < 0:
        raise refuse("; ".join(f"{name}: {_show(shape)}" for name, shape in request.shapes.items()))


def misfit(wanted: ShapeRange, shape: tuple[int, ...]) -> str:
    """Say why a range of shapes does not fit an input whose open dimensions are -1, or nothing.

    >>> misfit(ShapeRange((4, 3), (2, 3), (8, 3)), (-1, 3))
    'dimension 0 is not least ≤ usual ≤ most'
    """
    if not len(wanted.min) == len(wanted.opt) == len(wanted.max) == len(shape):
        return f"the model has {len(shape)} dimensions there"
    for axis, (low, mid, high, fixed) in enumerate(zip(wanted.min, wanted.opt, wanted.max, shape, strict=True)):
        if not low <= mid <= high:
            return f"dimension {axis} is not least ≤ usual ≤ most"
        if fixed != -1 and not low == mid == high == fixed:
            return f"dimension {axis} is fixed at {fixed}"
    return ""


def _show(wanted: ShapeRange) -> str:
    return " ≤ ".join("x".join(map(str, shape)) for shape in (wanted.min, wanted.opt, wanted.max))


def _complaint(error: tensorrt.ParserError) -> Complaint:
    return Complaint(error.node_name(), error.node_operator(), tidy(error.desc()), str(error.code().name))


def tidy(text: str) -> str:
    r"""Leave out of a message what says nothing about the graph.

    >>> tidy("Invalid Node - dq\nITensor::getDimensions: Error Code 4: it has type Int32\n… (cudaError 35: …)")
    'it has type Int32'
    """
    lines = [line for line in text.strip().splitlines() if _NO_DRIVER not in line]
    useful = [line for line in lines if not line.startswith("Invalid Node - ")] or lines
    return " ".join(_PREFIX.sub("", line) for line in useful)


def blame(message: str, nodes: Mapping[str, str], region: str = "") -> Complaint:
    """Find the node that a message of the builder is about.

    First by name (the longest, since names nest), then by operator where only one node has it, then by the region
    that was being compiled, of which the first and last node are given.

    >>> str(blame("Attention operation was not supported", {"att": "Attention", "mm": "MatMul"}))
    "Attention 'att': Attention operation was not supported"
    """
    reason = tidy(message)
    named = [node for node in nodes if node and re.search(rf"(?<![\w/.]){re.escape(node)}(?![\w/])", message)]
    if not named and (op := re.match(r".*?\b([A-Z]\w+) operation was not supported", message, re.DOTALL)):
        named = [node for node, kind in nodes.items() if kind == op[1]]
    if named:
        node = max(named, key=len)
        return Complaint(node, nodes[node], reason)
    inside = list(dict.fromkeys(re.findall(r"\[ONNX Layer: ([^\]]*)\]", region)))
    if len(inside) == 1:
        return Complaint(inside[0], nodes.get(inside[0], ""), reason)
    where = f" (while compiling the nodes from {inside[0]!r} to {inside[-1]!r})" if inside else ""
    return Complaint("", "", reason + where)
