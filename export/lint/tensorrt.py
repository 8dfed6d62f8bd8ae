"""What TensorRT refuses, casts or does not fuse: rules in our words, each with the source it rests on.

A rule looks at a graph and gives the nodes it is about. ``[ran]`` marks what was seen by running the named product.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from attn_export.export.graph.index import GraphIndex, attribute, is_standard
from attn_export.export.lint._rule import Hit, Rule, recorder


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


RTX = "TensorRT for RTX 1.7.1 [ran]"
#: Operators that the parser does not know, by its own ``supports_operator``, at opset 26.
NOT_PARSED = _words(
    "AffineGrid Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor CenterCropPad Col2Im Compress "
    "ConcatFromSequence ConvInteger CumProd DFT DeformConv Det DynamicQuantizeLinear ImageDecoder MatMulInteger "
    "MaxRoiPool MaxUnpool MelWeightMatrix Multinomial NegativeLogLikelihoodLoss Optional OptionalGetElement "
    "OptionalHasElement QLinearConv QLinearMatMul RegexFullMatch SequenceAt SequenceConstruct SequenceEmpty "
    "SequenceErase SequenceInsert SequenceLength SequenceMap SoftmaxCrossEntropyLoss SplitToSequence StringConcat "
    "StringNormalizer StringSplit SwiGLU TfIdfVectorizer Unique"
)
#: These need the plug-in library, which TensorRT has and TensorRT for RTX has not.
PLUGINS = frozenset({"NonZero", "RoiAlign", "DeformConv"})
INSTEAD = {
    "Col2Im": "write unfold and fold as shifted slices or fixed one-hot convolutions",
    "DFT": "write the transform as matrix products with cosines and sines",
}

RULES: list[Rule] = []
rule = recorder(RULES)


@rule("refused", RTX)
def operator_unknown(graph: GraphIndex) -> Iterator[Hit]:
    """Find operators that the parser has no importer for."""
    for node in graph.nodes:
        if node.domain not in ("", "ai.onnx"):
            yield node, f"the domain {node.domain!r} has no importer", "decompose it into operators of ONNX"
        elif node.op_type in NOT_PARSED - PLUGINS:
            yield node, "the parser has no importer for it", INSTEAD.get(node.op_type, "rewrite it in other operators")


@rule("refused", RTX)
def operator_needs_plugins(graph: GraphIndex) -> Iterator[Hit]:
    """Find operators that TensorRT has a plug-in for, and TensorRT for RTX has none."""
    for node in graph.standard:
        if node.op_type in PLUGINS:
            yield (
                node,
                "TensorRT for RTX has no plug-ins",
                "full TensorRT takes it; write it in other operators for both",
            )


@rule("refused", RTX)
def second_output(graph: GraphIndex) -> Iterator[Hit]:
    """Find further outputs of operators of which only the first is supported."""
    used = set(graph.readers) | {port.name for port in graph.model.graph.output}
    for node in graph.standard:
        if node.op_type in ("LayerNormalization", "MaxPool") and used & set(filter(None, node.output[1:])):
            yield node, "only its first output is supported", "compute the second one apart"


@rule("refused", RTX)
def antialias(graph: GraphIndex) -> Iterator[Hit]:
    """Find resizing with antialias."""
    for node in graph.standard:
        if node.op_type == "Resize" and attribute(node, "antialias", 0):
            yield node, "antialiasing is not supported", "resize without antialias, or blur by a convolution first"


@rule("refused", RTX)
def scales_not_constant(graph: GraphIndex) -> Iterator[Hit]:
    """Find resizing with scales that are known only at run time."""
    for node in graph.standard:
        if node.op_type == "Resize" and len(node.input) > 2 and not graph.is_constant(node.input[2]):
            yield node, "its scales are not constant", "give constant scales"


@rule("refused", RTX)
def axes_not_constant(graph: GraphIndex) -> Iterator[Hit]:
    """Find reductions over axes that are known only at run time."""
    for node in graph.standard:
        if node.op_type.startswith("Reduce") and len(node.input) > 1 and not graph.is_constant(node.input[1]):
            yield node, "its axes are not constant", "give constant axes"


@rule("refused", RTX)
def scatter_reduction(graph: GraphIndex) -> Iterator[Hit]:
    """Find a scatter that adds or multiplies."""
    for node in graph.standard:
        if node.op_type in ("ScatterND", "ScatterElements") and attribute(node, "reduction", "none") != "none":
            yield node, "scatter with a reduction is not supported", "add by a product with a one-hot matrix"


@rule("refused", RTX)
def rank_above_eight(graph: GraphIndex) -> Iterator[Hit]:
    """Find tensors of more than the eight dimensions that TensorRT holds."""
    for node in graph.nodes:
        if max((graph.rank(name) for name in (*node.input, *node.output)), default=0) > 8:
            yield node, "a tensor has more than eight dimensions", "merge dimensions before"


@rule("refused", "NVIDIA's operator documentation; TensorRT for RTX takes it")
def grid_sample_form(graph: GraphIndex) -> Iterator[Hit]:
    """Find GridSample in five dimensions, or cubic."""
    for node in graph.standard:
        cubic = attribute(node, "mode", "linear") in ("cubic", "bicubic")
        if node.op_type == "GridSample" and (cubic or graph.rank(node.input[0]) == 5):
            yield node, "TensorRT samples four dimensions, nearest or linear", "use a linear sample of a 4-D tensor"


@rule("refused", RTX)
def quantised_unsigned_or_shifted(graph: GraphIndex) -> Iterator[Hit]:
    """Find Q/DQ with a zero point that is not 0."""
    for node in graph.standard:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2:
            point = graph.tensors.get(node.input[2])
            if point is not None and bool(np.any(numpy_helper.to_array(point) != 0)):
                yield node, "its zero point is not 0", "quantise symmetrically, in int8"


@rule("refused", RTX)
def bias_in_int32(graph: GraphIndex) -> Iterator[Hit]:
    """Find a bias that is stored as int32 and dequantised."""
    for node in graph.standard:
        if node.op_type == "DequantizeLinear" and graph.element_type(node.input[0]) == TensorProto.INT32:
            yield node, "int32 cannot be dequantised", "leave biases in float32 (QuantizeBias=False)"


@rule("refused", RTX)
def attention_operator_in_float32(graph: GraphIndex) -> Iterator[Hit]:
    """Find the Attention operator in float32: it has no kernel there, and is not decomposed."""
    for node in graph.standard:
        if node.op_type == "Attention" and graph.element_type(node.input[0]) == TensorProto.FLOAT:
            yield node, "there is no float32 kernel for it", "export attention decomposed, or in float16"


def attentions(graph: GraphIndex) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Find softmaxes between two products, with the product that gives their scores."""
    between = ("Mul", "Div", "Add", "Where", "Cast", "Reshape", "QuantizeLinear", "DequantizeLinear")
    for node in graph.standard:
        if node.op_type != "Softmax":
            continue
        scores = graph.before(node.input[0], between)
        after = {"MatMul"}
        read = [r for name in node.output for r in graph.readers.get(name, [])]
        read += [
            r for node_ in read if node_.op_type in between for n in node_.output for r in graph.readers.get(n, [])
        ]
        if scores is not None and scores.op_type == "MatMul" and after & {r.op_type for r in read}:
            yield node, scores


@rule("not fused", RTX)
def attention_in_float32(graph: GraphIndex) -> Iterator[Hit]:
    """Find attention in float32: it is fused in float16 and bfloat16 only."""
    for softmax, _ in attentions(graph):
        if graph.element_type(softmax.input[0]) == TensorProto.FLOAT:
            yield softmax, "float32 attention is not fused into one kernel", "export with --fp16"


#: Widths of a head that are fused (SM86 and SM120): 9 and 256 are, 8 and 257 are not.
FUSED_WIDTHS = range(9, 257)


@rule("not fused", RTX)
def head_width(graph: GraphIndex) -> Iterator[Hit]:
    """Find heads that are too narrow or too wide, or whose values have another width than their keys."""
    for softmax, scores in attentions(graph):
        readers = graph.readers.get(softmax.output[0], [])
        products = [r for r in readers if r.op_type == "MatMul" and is_standard(r)]
        values = [r.input[1] for r in products if r.input[0] == softmax.output[0]]
        key, value = graph.width(scores.input[0]), graph.width(values[0]) if values else 0
        if key and key not in FUSED_WIDTHS:
            yield softmax, f"heads are {key} wide; from 9 to 256 are fused", "take fewer or more heads"
        elif key and value and key != value:
            yield softmax, f"keys are {key} wide and values {value}; only equal widths are fused", "make them equal"


@rule("not fused", RTX)
def quantised_scores(graph: GraphIndex) -> Iterator[Hit]:
    """Find Q/DQ on the scores, which keeps attention from being fused."""
    for softmax, _ in attentions(graph):
        node = graph.maker.get(softmax.input[0])
        if node is not None and is_standard(node) and node.op_type == "DequantizeLinear":
            remedy = "exclude the outputs of MatMul from quantisation (OpTypesToExcludeOutputQuantization)"
            yield softmax, "its scores are quantised, so attention is not fused", remedy


@rule("cast", "NVIDIA's documentation of strongly typed networks")
def norm_by_hand_in_float16(graph: GraphIndex) -> Iterator[Hit]:
    """Find a normalisation that is written out: it stays in float16 and overflows."""
    for node in graph.standard:
        squares = graph.before(node.input[0], ()) if node.op_type == "ReduceMean" and node.input else None
        if squares is None or squares.op_type not in ("Mul", "Pow"):
            continue
        if graph.element_type(node.input[0]) == TensorProto.FLOAT16:
            yield node, "a mean of squares in float16 overflows beyond 255", "use the LayerNormalization operator"
