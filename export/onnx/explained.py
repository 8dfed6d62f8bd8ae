"""Say why PyTorch's exporter refuses a network, in words about the user's code: the line, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch

from attn_export.export import code_lines
from attn_export.untrusted.text import first_line

#: By operator, what to write instead; of those that ONNX has no operator for.
_INSTEAD = {
    "kthvalue": "torch.topk gives the same value",
    "median": "torch.topk or sort gives the same value",
    "_cdist_forward": "write the distances out: (a[:, None] - b[None]).abs().pow(p).sum(-1).pow(1 / p)",
    "view.dtype": "ONNX cannot read bits as another type",
    "_to_sparse": "keep the tensor dense",
    "_convolution": "this is a part that was traced by torch.jit: give the module it was made of",
    "histc": "count by comparisons, with the limits as numbers: ((x[..., None] >= low) & (x[..., None] < high)).sum()",
}
#: By a word of the exporter's message, what to do.
_WORDS = {
    "qint": "quantised tensors of PyTorch are not exported: give the float network, or a quantised ONNX file",
    "Unsupported attribute type": "a setting of an operator, such as its groups, depends on a size that may vary or on"
    " values: fix that size, by a number in --input or --dynamic none",
    "is mutated in the forward": "forward writes into a tensor that is no buffer: register it as one, or leave it",
}
_LINALG = re.compile(r"linalg|svd|inverse|cholesky|_eig|lu_")


def explained(name: str, error: BaseException, cut: Callable[[], str] = lambda: "") -> str:
    """Give the sentence for an error of the exporter; ``cut`` says where a network that chooses is to be cut."""
    causes = list(code_lines.chain(error))
    kinds = {type(cause).__name__ for cause in causes}
    node = code_lines.node_of(error)
    line = code_lines.of_trace(node.meta.get("stack_trace") or "") if node is not None else code_lines.of_error(error)
    last = causes[-1]
    if "GuardOnDataDependentSymNode" in kinds:
        guard = next(cause for cause in causes if type(cause).__name__ == "GuardOnDataDependentSymNode")
        line = code_lines.of_trace(str(guard)) or line
        if chooses := cut():
            return f"{name} runs, but cannot be traced{_at(line)}: {chooses}"
        return (
            f"{name} runs, but cannot be traced{_at(line)}: that depends on the values in a tensor, and a graph is the"
            f" same for all values; {_decision(line)}"
        )
    if operator := _operator(last, node):
        return f"{name} was traced, but cannot be written as ONNX{_at(line)}: {_missing(operator)}"
    stage = "was traced, but cannot be written as ONNX" if "ConversionError" in kinds else "runs, but cannot be traced"
    plain = str(node.target).removeprefix("aten.").removesuffix(".default") if node is not None else ""
    hint = _hint(plain) or next((text for word, text in _WORDS.items() if word in str(last)), "")
    said = f"PyTorch's exporter says {type(last).__name__}: {first_line(last, 300)}"
    return f"{name} {stage}{_at(line)}: {said}{f'; {hint}' if hint else ''}"


def _at(line: str) -> str:
    return f" at {line}" if line else ""


def _decision(line: str) -> str:
    """Say what to write instead of code that depends on values."""
    code = line.partition("(`")[2]
    if re.match(r"(assert\b|torch\._assert|torch\._check)", code):
        return "take the check out of forward, or put it under `if not torch.compiler.is_exporting():`"
    if code.startswith(("while ", "for ")) or "range(" in code:
        return "repeat a fixed number of times, and choose by torch.where(condition, new, old)"
    if code.startswith(("if ", "elif ")) or " if " in code:
        return (
            "compute both and choose by torch.where(condition, a, b), or take torch.cond, or decide outside of forward"
        )
    return "keep the number as a tensor, or make it a constant (no .item(), int(), float() or bool() of a tensor)"


def _operator(last: BaseException, node: torch.fx.Node | None) -> str:
    """Name the operator that ONNX, or PyTorch's tracing, has no place for."""
    if type(last).__name__ == "DispatchError":
        found = re.search(r"op='([\w.]+)', overload='(\w+)'", str(last))
        if found is not None:
            return found[1] + ("" if found[2] in ("default", "dim", "Tensor") else f".{found[2]}")
        return str(node.target) if node is not None else ""
    if type(last).__name__ == "UnsupportedOperatorException":
        return first_line(last).removesuffix(".default")
    return ""


def _missing(operator: str) -> str:
    domain, _, plain = operator.partition(".")
    if domain not in ("aten", "prims"):
        return (
            f"{operator} is an operator of your own, which ONNX does not have; write it in PyTorch's operators, or run"
            " it before or behind the exported part"
        )
    return f"ONNX has no operator for {plain}; {_hint(plain) or 'write it in other operators, or run it outside'}"


def _hint(plain: str) -> str:
    if _LINALG.search(plain):
        return "where it depends on weights alone, compute it in the constructor; else outside of the exported part"
    return _INSTEAD.get(plain, "")
