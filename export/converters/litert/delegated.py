"""How much of a ``.tflite`` file the CPU's fast kernels (XNNPACK) take over, as the interpreter reports it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shares:
    """The operators of a file, and those of them that the fast kernels leave.

    Attributes:
        operators: count of all.
        left: how often each is left to the plain kernels, by its name.
    """

    operators: int
    left: Mapping[str, int]

    @property
    def share(self) -> float:
        """The part that is taken over, of 1; a file without operators leaves none."""
        return 1 - sum(self.left.values()) / self.operators if self.operators else 1.0

    def summary(self) -> str:
        """Say it in a sentence; nothing where all are taken.

        >>> Shares(9, {"ARG_MAX": 1, "ADD": 2}).summary()
        'XNNPACK takes 6 of 9 operators; the plain kernels run ADD (2), ARG_MAX (1)'
        """
        if not self.left:
            return ""
        names = ", ".join(f"{name} ({count})" for name, count in sorted(self.left.items()))
        taken = self.operators - sum(self.left.values())
        return f"XNNPACK takes {taken} of {self.operators} operators; the plain kernels run {names}"


def delegated(path: Path) -> Shares:
    """Load a file and look at what its plan has become.

    Raises:
        ValueError, RuntimeError: the runtime does not load the file.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    operators = interpreter._get_ops_details()
    outputs = [int(output["index"]) for output in interpreter.get_output_details()]
    return shares(operators, outputs)


def shares(operators: list[dict[str, Any]], outputs: list[int]) -> Shares:
    """Count what still runs: what is taken over stays listed, and behind it comes what has taken it over.

    >>> relu = {"op_name": "RELU", "inputs": [0], "outputs": [1]}
    >>> sort = {"op_name": "SORT", "inputs": [1], "outputs": [2]}
    >>> taken = {"op_name": "DELEGATE", "inputs": [0], "outputs": [1]}
    >>> shares([relu, sort, taken], [2])
    Shares(operators=2, left={'SORT': 1})
    """
    maker = {int(index): at for at, operator in enumerate(operators) for index in operator["outputs"]}
    running, todo, seen = set[int](), list(outputs), set[int]()
    while todo:
        index = todo.pop()
        if index in seen or index not in maker:
            continue
        seen.add(index)
        running.add(maker[index])
        todo += map(int, operators[maker[index]]["inputs"])
    names = [str(operator["op_name"]) for operator in operators]
    left = Counter(names[at] for at in running if names[at] != "DELEGATE")
    return Shares(sum(name != "DELEGATE" for name in names), dict(left))
