"""Prove what enters the operators that choose: the boxes and scores of every place, not only of those that are kept.

A picture in which nothing is found says nothing of a detector by its outputs, and one box in a hundred reaches them.
So what TopK and NonMaxSuppression read is compared as well, behind every stage, with the float64 meaning of the graph
before any stage changed it. It costs an evaluation in float64 and some in float32 for each case, so a few cases do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from attn_export.bundle import Case, loose
from attn_export.deploy_tests.backend import Options
from attn_export.deploy_tests.backends import DEFAULT, opened
from attn_export.deploy_tests.parity.compare import OutputComparison, prove
from attn_export.errors import InconclusiveError
from attn_export.export.graph import cut
from attn_export.export.graph.chosen_order import chooser, way_out
from attn_export.export.graph.selections import entering
from attn_export.export.onnx.save import save
from attn_export.pipeline import float64
from attn_export.types import Array, Feeds, TensorSpec

#: Cases on which it is compared.
MOST = 4


@dataclass(frozen=True)
class BeforeChoice:
    """What the first operators that choose read in the graph before any stage, with its meaning in float64.

    Attributes:
        cases: inputs, and the reference of what is read.
        specs: what is compared, by operator (what it gives) and place among its inputs.
    """

    cases: tuple[Case, ...]
    specs: Mapping[tuple[str, int], TensorSpec]

    def compare(
        self, model: onnx.ModelProto, path: Path, *, backend: str, threads: int = 1, snr: float | None = None
    ) -> tuple[OutputComparison, ...]:
        """Compare what these operators read in a model, which is written to ``path`` as far as them.

        Raises:
            BackendError: that part of the model does not run.
        """
        read = {place: name for place, name in entering(model).items() if place in self.specs}
        if not read or not self.cases:
            return ()
        save(cut.exposed(model, read.values()), path)
        with opened(DEFAULT, path, Options(threads=threads)) as run:

            def named(feeds: Feeds) -> dict[str, Array]:
                came = run(feeds)
                return {self.specs[place].name: came[name] for place, name in read.items()}

            return prove(named, self.cases, [self.specs[p] for p in read], backend=backend, snr=snr).comparisons


def of(model: onnx.ModelProto, cases: Sequence[Case], folder: Path) -> BeforeChoice | None:
    """Evaluate what is chosen from in a model, on the first of the cases; None where nothing is chosen.

    Raises:
        ExportError: an operator of the graph is none that the evaluation knows.
    """
    read = entering(model)
    if not read:
        return None
    path = folder / "before-choice.onnx"
    save(cut.exposed(model, read.values()), path)
    specs = {
        (chooser, place): TensorSpec(f"{name} before {chooser}", str(cut.declared(model, name)), ())
        for (chooser, place), name in read.items()
    }
    names = {name: specs[place].name for place, name in read.items()}
    made = (_named(case, names) for case in float64.evaluate(path, {c.name: c.inputs for c in cases[:MOST]}))
    return BeforeChoice(tuple(case for case in made if not loose(case)), specs)


def refuse_nothing(model: onnx.ModelProto, cases: Sequence[Case], *, is_file: bool) -> None:
    """Refuse cases in none of which anything is chosen, as in pictures without objects.

    Raises:
        InconclusiveError: it is so.
    """
    for one in cases[0].selections:
        node = chooser(model, one.rows)
        if node is not None and not any(case.reference[name].size for case in cases for name in one.rows):
            raise InconclusiveError(
                f"{one.node} chooses nothing in any of {len(cases)} cases, so that nothing behind it is proven; give"
                f" inputs in which something is found (--data DIR), or {way_out(node, is_file=is_file)}"
            )


def _named(case: Case, names: Mapping[str, str]) -> Case:
    """Give the tensors of a case the names by which they are compared."""
    return replace(
        case,
        reference={names[name]: value for name, value in case.reference.items()},
        float32_error={names[name]: value for name, value in case.float32_error.items()},
        slice_error={names[name]: value for name, value in case.slice_error.items()},
    )
