"""Attention over several heads: split the channels, attend in each head, merge.

y = softmax(bias + scale * q kᵀ) v      b h nq d

The queries are scaled before the product, so that float16 does not overflow where the logits themselves do not.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def split_heads(x: Float[Tensor, "b n c"], heads: int) -> Float[Tensor, "b h n d"]:
    """Cut the channels into ``heads`` pieces and put the heads before the tokens."""
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)


def merge_heads(x: Float[Tensor, "b h n d"]) -> Float[Tensor, "b n c"]:
    """Undo ``split_heads``."""
    return x.transpose(1, 2).flatten(2)


def attend(
    q: Float[Tensor, "*b nq d"],
    k: Float[Tensor, "*b nk d"],
    v: Float[Tensor, "*b nk e"],
    *,
    scale: float | None = None,
    bias: Tensor | None = None,
    weights: Tensor | None = None,
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "*b nq e"]:
    """Average ``v`` with softmax weights of the products of ``q`` and ``k``.

    Args:
        q: queries.
        k: keys.
        v: values.
        scale: factor of the queries; 1 / sqrt(d) unless given.
        bias: added to the logits, such as a table of relative positions.
        weights: multiplied with the logits.
        mask: True where a key is hidden from a query. A query from which all keys are hidden gives 0.
    """
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    logits = (q if factor == 1 else q * factor) @ k.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    if weights is not None:
        logits = logits * weights
    return masked_softmax(logits, mask) @ v


def masked_softmax(logits: Float[Tensor, "..."], mask: Bool[Tensor, "..."] | None = None) -> Float[Tensor, "..."]:
    """Softmax over the last axis among what ``mask`` does not hide (True hides); 0 where all is hidden."""
    if mask is None:
        return torch.softmax(logits, -1)
    # -inf would make NaN of rows in which all is hidden; the finite minimum makes them uniform, so they are cleared.
    hidden = logits.masked_fill(mask, torch.finfo(logits.dtype).min)
    return torch.softmax(hidden, -1).masked_fill(mask, 0.0)
