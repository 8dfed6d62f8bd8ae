"""What ONNX Runtime leaves out on a phone: its reduced package, and the accelerators behind NNAPI and CoreML.

An operator that an accelerator has not is no error: the graph is split there, and the part runs on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import TensorProto

from attn_export.export.graph.index import GraphIndex, attribute
from attn_export.export.lint._rule import Hit, Rule, recorder


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TOOLS = "onnxruntime: tools/ci_build/github"
MOBILE = f"{_TOOLS}/android/mobile_package.required_operators.config"
NNAPI = f"{_TOOLS}/android/nnapi_supported_ops.md"
COREML = f"{_TOOLS}/apple/coreml_supported_mlprogram_ops.md"
MOBILE_OPERATORS = _words(
    "Abs Add And ArgMax ArgMin AveragePool Cast Ceil Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos "
    "CumSum DepthToSpace DequantizeLinear Div DynamicQuantizeLinear Elu Equal Erf Exp Expand Flatten Floor Gather "
    "GatherND Gemm GlobalAveragePool Greater GreaterOrEqual Identity If InstanceNormalization LRN LayerNormalization "
    "LeakyRelu Less LessOrEqual Log LogSoftmax Loop MatMul MatMulInteger Max MaxPool Mean Min Mul Neg "
    "NonMaxSuppression NonZero Not Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear Range Reciprocal "
    "ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Resize ReverseSequence Round Scan ScatterND "
    "Shape Sigmoid Sin Size Slice Softmax SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh ThresholdedRelu Tile TopK "
    "Transpose Unique Unsqueeze Where"
)
NNAPI_OPERATORS = _words(
    "Abs Add AveragePool Cast Clip Concat Conv DepthToSpace DequantizeLinear Div Elu Exp Flatten Floor Gather Gemm "
    "GlobalAveragePool GlobalMaxPool Identity Log MatMul MaxPool Max Min Mul Neg Pad Pow PRelu QLinearConv "
    "QLinearMatMul QuantizeLinear Relu Reshape Resize Sigmoid Sin Slice Softmax Sqrt Squeeze Sub Tanh Transpose "
    "Unsqueeze"
)
COREML_OPERATORS = _words(
    "Add ArgMax AveragePool Cast Clip Concat Conv ConvTranspose Cos DepthToSpace Ceil Div Elu Erf Exp GatherND Gemm "
    "Gelu GlobalAveragePool GlobalMaxPool GridSample GroupNormalization HardSigmoid Identity InstanceNormalization "
    "LayerNormalization LeakyRelu MatMul MaxPool Max Mul Pow PRelu Range Reciprocal ReduceSum ReduceMean ReduceMax "
    "Relu Reshape Resize Round Shape Sin Slice Softplus Split Sub Sigmoid Softmax Sqrt Squeeze Tanh Tile Transpose "
    "Unsqueeze"
)
#: Both take these in two dimensions only.
_FLAT = _words("AveragePool GlobalAveragePool GlobalMaxPool MaxPool")

RULES: list[Rule] = []
rule = recorder(RULES)


@rule("refused", MOBILE)
def not_in_the_mobile_package(graph: GraphIndex) -> Iterator[Hit]:
    """Find operators that the reduced package has no kernel for."""
    for node in graph.nodes:
        if node.domain in ("", "ai.onnx") and node.op_type not in MOBILE_OPERATORS:
            yield node, "the reduced mobile package has no kernel for it", "use the full package, or a custom build"


@rule("refused", MOBILE)
def type_not_in_the_mobile_package(graph: GraphIndex) -> Iterator[Hit]:
    """Find types other than those that the reduced package computes in: float32, int8 and uint8."""
    for node in graph.nodes:
        kinds = {graph.element_type(name) for name in (*node.input, *node.output)}
        if found := kinds & {TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}:
            name = TensorProto.DataType.Name(min(found)).lower()
            yield node, f"the reduced mobile package has no {name} kernels", "export in float32 for it"


@rule("split", "onnxruntime.ai: make dynamic input shape fixed, for mobile execution providers")
def dynamic_input(graph: GraphIndex) -> Iterator[Hit]:
    """Find open shapes: NNAPI and CoreML take fixed ones, the rest runs on the CPU."""
    open_ = {
        port.name
        for port in graph.model.graph.input
        if any(not dim.HasField("dim_value") for dim in port.type.tensor_type.shape.dim)
    }
    for node in graph.nodes:
        if open_ & set(node.input):
            yield node, "its input has open dimensions, which NNAPI and CoreML leave to the CPU", "fix the dimensions"


@rule("split", NNAPI)
def not_on_nnapi(graph: GraphIndex) -> Iterator[Hit]:
    """Find operators that NNAPI lacks, or has in another form only."""
    for node in graph.nodes:
        if why := _missing(graph, node, NNAPI_OPERATORS) or _form_on_nnapi(graph, node):
            yield node, f"NNAPI leaves it to the CPU: {why}", "write it in operators it has, or stay on the CPU"


@rule("split", COREML)
def not_on_coreml(graph: GraphIndex) -> Iterator[Hit]:
    """Find operators that CoreML's ML programs lack, or have in another form only."""
    for node in graph.nodes:
        if why := _missing(graph, node, COREML_OPERATORS) or _form_on_coreml(graph, node):
            yield (
                node,
                f"CoreML leaves it to the CPU: {why}",
                "write it in operators that CoreML has, or stay on the CPU",
            )


def _missing(graph: GraphIndex, node: onnx.NodeProto, known: frozenset[str]) -> str:
    if node.op_type == "Constant":
        return ""
    if node.domain not in ("", "ai.onnx") or node.op_type not in known:
        return "it has no such operator"
    return (
        "it pools in two dimensions only" if node.op_type in _FLAT and graph.rank(node.input[0]) not in (-1, 4) else ""
    )


def _form_on_nnapi(graph: GraphIndex, node: onnx.NodeProto) -> str:
    match node.op_type:
        case "Conv" if graph.rank(node.input[0]) not in (-1, 4):
            return "it convolves in two dimensions only"
        case "Conv" if not all(map(graph.is_constant, node.input[1:])):
            return "its weights are not constant"
        case "DepthToSpace" if attribute(node, "mode", "DCR") != "DCR":
            return "only the mode DCR"
        case "Gemm" if not graph.is_constant(node.input[1]) and not attribute(node, "transB", 0):
            return "its second factor is neither constant nor transposed"
        case "Pad" if attribute(node, "mode", "constant") != "constant":
            return "only the mode constant"
        case "Gather" if (
            not graph.is_constant(node.input[1]) and graph.element_type(node.input[1]) != TensorProto.INT32
        ):
            return "its indices are neither constant nor int32"
    return ""


def _form_on_coreml(graph: GraphIndex, node: onnx.NodeProto) -> str:
    match node.op_type:
        case "Conv" if graph.rank(node.input[0]) not in (-1, 3, 4):
            return "it convolves in one or two dimensions only"
        case "Gemm" if not graph.is_constant(node.input[1]):
            return "its second factor is not constant"
        case "GatherND" if attribute(node, "batch_dims", 0):
            return "only without batch_dims"
        case "GridSample" if graph.rank(node.input[0]) not in (-1, 4):
            return "it samples four dimensions only"
        case "Slice" if not all(map(graph.is_constant, node.input[1:])):
            return "its starts, ends, axes or steps are not constant"
        case "Split" if not all(map(graph.is_constant, node.input[1:])):
            return "its sizes are not constant"
    return ""
