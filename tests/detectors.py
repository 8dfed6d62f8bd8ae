"""Networks that choose among what they found: a detector with NonMaxSuppression, and one with TopK."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper, parser
from torch import Tensor, nn

from attn_export.types import Array

#: Boxes of the detector, and the places of its thresholds among its constants.
PLACES = 64

_YOLO = """
<ir_version: 8, opset_import: ["" : 17]>
yolo (float[1,3,32,32] image) => (float[n,4] boxes, float[n] scores, int64[n] classes) {
  a = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (image, w0, b0)
  b = Relu (a)
  c = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (b, w1, b1)
  flat = Reshape (c, flat_shape)
  raw, logits = Split <axis = 1> (flat, parts)
  turned = Transpose <perm = [0, 2, 1]> (raw)
  middle_raw, size_raw = Split <axis = 2> (turned, halves)
  middle_unit = Sigmoid (middle_raw)
  middle_cell = Add (middle_unit, grid)
  middle = Mul (middle_cell, stride)
  size_unit = Exp (size_raw)
  half = Mul (size_unit, stride)
  low = Sub (middle, half)
  high = Add (middle, half)
  all_boxes = Concat <axis = 2> (low, high)
  all_scores = Sigmoid (logits)
  chosen = NonMaxSuppression (all_boxes, all_scores, most, overlap, least)
  scores = GatherND (all_scores, chosen)
  classes = Gather <axis = 1> (chosen, one)
  which = Gather <axis = 1> (chosen, two)
  image_boxes = Squeeze (all_boxes, first)
  boxes = Gather <axis = 0> (image_boxes, which)
}
"""


def yolo(*, most: int = 10, overlap: float = 0.5, least: float = 0.6) -> onnx.ModelProto:
    """Boxes, scores and classes of what is left by suppression, of 64 places and 3 classes."""
    random = np.random.default_rng(0)
    model = parser.parse_model(_YOLO)
    cells = np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1).reshape(1, PLACES, 2)
    constants: dict[str, Array] = {
        "w0": random.standard_normal((12, 3, 3, 3)).astype(np.float32) / 5,
        "b0": random.standard_normal(12).astype(np.float32) / 5,
        "w1": random.standard_normal((7, 12, 3, 3)).astype(np.float32) / 10,
        "b1": random.standard_normal(7).astype(np.float32) / 5,
        "flat_shape": np.array([1, 7, PLACES]),
        "parts": np.array([4, 3]),
        "halves": np.array([2, 2]),
        "grid": cells.astype(np.float32),
        "stride": np.float32(4),
        "most": np.array([most]),
        "overlap": np.float32([overlap]),
        "least": np.float32([least]),
        "one": np.array(1),
        "two": np.array(2),
        "first": np.array([0]),
    }
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    onnx.checker.check_model(model)
    return model


def in_one(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give boxes, scores and classes as columns of one output, as many exports do."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    nodes = [
        helper.make_node("Unsqueeze", ["scores", "one_axis"], ["score_column"]),
        helper.make_node("Cast", ["classes"], ["class_floats"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["class_floats", "one_axis"], ["class_column"]),
        helper.make_node("Concat", ["boxes", "score_column", "class_column"], ["detections"], axis=1),
    ]
    made.graph.node.extend(nodes)
    made.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one_axis"))
    del made.graph.output[:]
    made.graph.output.append(helper.make_tensor_value_info("detections", onnx.TensorProto.FLOAT, ["n", 6]))
    return made


class Queries(nn.Module):
    """A head as RT-DETR has it: the best places become queries, which look at each other and at the picture."""

    def __init__(self, most: int = 40, width: int = 16, classes: int = 5) -> None:
        super().__init__()
        self.most = most
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width)
        )
        self.rate, self.attention = nn.Linear(width, classes), nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.logits, self.boxes = nn.Linear(width, classes), nn.Linear(width, 4)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        places = self.body(image).flatten(2).transpose(1, 2)
        _, best = self.rate(places).amax(-1).topk(self.most, dim=1)
        queries = places.gather(1, best[..., None].expand(-1, -1, places.shape[-1]))
        mixed = self.norm(queries + self.attention(queries, queries, queries, need_weights=False)[0])
        return {"logits": self.logits(mixed), "boxes": self.boxes(mixed).sigmoid()}


class Best(nn.Module):
    """The most likely pairs of query and class, as the post-processing of DETR's kin gives them."""

    def __init__(self, most: int = 300) -> None:
        super().__init__()
        self.most = most
        self.queries = Queries(most)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        found = self.queries(image)
        scores = found["logits"].sigmoid()
        top, index = scores.flatten(1).topk(self.most, dim=1)
        which = torch.div(index, scores.shape[-1], rounding_mode="floor")
        boxes = found["boxes"].gather(1, which[..., None].expand(-1, -1, 4))
        return {"scores": top, "labels": index % scores.shape[-1], "boxes": boxes}
