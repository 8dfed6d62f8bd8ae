"""Logits between queries and relative positions along one axis, without a gather.

L[i, j] = q_i · R[j - i + n - 1]      b n n; R holds one vector for each of the 2n - 1 distances
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def skew(logits: Float[Tensor, "b n m"]) -> Float[Tensor, "b n n"]:
    """Take logits by distance, ``m = 2 n - 1``, to logits by place: ``y[i, j] = x[i, j - i + n - 1]``.

    With one zero behind each line, reading the table with lines shorter by one moves line i by i: no index is needed.

    >>> import torch; skew(torch.arange(9.0).reshape(1, 3, 3)[:, :2])
    tensor([[[1., 2.],
             [3., 4.]]])
    """
    _, n, m = logits.shape
    flat = F.pad(logits, (0, 1)).flatten(1)  # lines of 2n
    # Line i starts at n - 1 + (2n - 1) i of what is now one line; the pad gives the last one room to end.
    return flat[:, n - 1 : n - 1 + n * m].reshape(-1, n, m)[:, :, :n]
