"""Which softmaxes of the catalogue are attention in the form that NVIDIA documents as fused, and why others are not.

The form (https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/transformers-fused-attention.html):
softmax(q kᵀ + mask) v over the keys, q of b h nq d, k and v of b h nk d with one d, scaled before the first product.
By TensorRT for RTX 1.7.1 (SM86) it is fused in float16 and bfloat16, not in float32, and for d from 9 to 256 [ran].
"""

from __future__ import annotations

NO_SCORES = "its softmax is over logits of a layer, not over products of queries and keys"
BRANCHES = "its softmax weighs a few branches or kernels, not keys"
OVER_CHANNELS = "its scores compare channels: the width of a head is the number of pixels, which is open"

#: Every entry with a softmax of which none is fused, with the reason. In all others each softmax is fused attention.
NOT_FUSED: dict[str, str] = {
    "a2": NO_SCORES,
    "acmix": "its scores are products with the 49 neighbours of each pixel, summed element by element, not a matmul",
    "aft_simple": "there are no queries in its softmax; it weighs tokens channel by channel",
    "cot": BRANCHES,
    "criss_cross": "one softmax spans two products, along the row and along the column",
    "danet": "keys are 64 wide and values 512; in its second half the scores compare channels",
    "dynamic_conv": BRANCHES,
    "ema": NO_SCORES,
    "emsa": "a convolution mixes the heads before the softmax, an instance norm follows it",
    "external": "it is normalised over the tokens as well as over the 8 slots of its memory",
    "gc": NO_SCORES,
    "lambda_layer": "keys are normalised by themselves, before they meet a query",
    "mobilevitv2": NO_SCORES,
    "muse": "the preset has heads 512 wide; up to 256 are fused",
    "odconv": BRANCHES,
    "outlook": NO_SCORES,
    "polarized_parallel": NO_SCORES,
    "polarized_sequential": NO_SCORES,
    "psa": BRANCHES,
    "s2": BRANCHES,
    "sdta": OVER_CHANNELS,
    "self_attention": "the preset has heads 512 wide; up to 256 are fused",
    "sk": BRANCHES,
    "split_attention": BRANCHES,
    "vip": BRANCHES,
    "vip_mlp": BRANCHES,
    "xca": OVER_CHANNELS,
}


def expected(name: str, precision: str, softmaxes: int) -> int:
    """How many fused attention kernels an entry must show.

    >>> expected("axial_attention", "fp16", 2), expected("axial_attention", "fp32", 2), expected("gc", "fp16", 1)
    (2, 0, 0)
    """
    return 0 if precision == "fp32" or name in NOT_FUSED else softmaxes
