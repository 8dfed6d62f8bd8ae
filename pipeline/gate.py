"""The parity gate between the stages: every model is held against the reference before the next stage sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from attn_export.bundle import Case
from attn_export.bundle.narrowed import Narrowed
from attn_export.deploy_tests.backend import Options, Run
from attn_export.deploy_tests.backends import BACKENDS, DEFAULT, backend_for, opened
from attn_export.deploy_tests.parity import varying
from attn_export.deploy_tests.parity.compare import Parity, prove
from attn_export.deploy_tests.parity.int8 import prove_int8
from attn_export.errors import AttnExportError, InconclusiveError
from attn_export.export.converters import INT8, Converted
from attn_export.export.graph import origin
from attn_export.export.graph.chosen_order import ordering
from attn_export.export.onnx.exported import Exported
from attn_export.export.onnx.save import save
from attn_export.export.precision.classes import PrecisionClass
from attn_export.pipeline import int8
from attn_export.pipeline.before_choice import BeforeChoice
from attn_export.pipeline.divergence.locate import first_divergence, locate
from attn_export.pipeline.divergence.runs import Variant
from attn_export.pipeline.divergence.variants import VariantFactory
from attn_export.pipeline.int8 import Int8Inputs, Int8Model
from attn_export.pipeline.manifest import StageResult
from attn_export.pipeline.stage import Made, PipelineState
from attn_export.types import TensorSpec


@dataclass(frozen=True)
class ParityGate:
    """Run a stage's model on the cases, and compare with their reference.

    Attributes:
        cases: inputs with their reference.
        folder: where the models of the stages may lie.
        threads: of the runtime.
        before: what enters the operators that choose, where there are any.
        data: names of the cases that are the user's own.
    """

    cases: Sequence[Case]
    folder: Path
    threads: int = 1
    before: BeforeChoice | None = None
    data: frozenset[str] = frozenset()

    def check(self, state: PipelineState, made: Made) -> Made:
        """Add nodes, bytes and parity; of a model in further formats the parity of each, the worst as the stage's."""
        if isinstance(made.account, Int8Model):
            return replace(made, result=self.quantised(state, made, made.account))
        if made.converted:
            return replace(made, result=self.converted(made, state))
        if state.made and made.exported is state.model and made.snr == state.made[-1].snr and state.made[-1].result:
            return replace(made, result=replace(state.made[-1].result, name=made.stage))  # proven when it was made
        path = self.folder / f"{len(state.made)}.onnx"
        save(made.exported.model, path)
        with opened(DEFAULT, path, Options(threads=self.threads)) as run:
            version = BACKENDS[DEFAULT].version()
            outputs, images = made.exported.contract.outputs, self._images(made.precision, self.cases, made.exported)
            parity = prove(run, self.cases, outputs, backend=version, snr=made.snr, images=images)
        if self.before is not None:
            inner = self.folder / f"{len(state.made)}-before-choice.onnx"
            more = self.before.compare(made.exported.model, inner, backend=version, threads=self.threads, snr=made.snr)
            parity = replace(parity, comparisons=(*parity.comparisons, *more))
        size = sum(file.stat().st_size for file in self.folder.glob(f"{path.name}*"))
        result = StageResult(made.stage, made.exported.nodes, size, parity, model=path)
        return replace(made, result=result)

    def converted(self, made: Made, state: PipelineState | None = None) -> StageResult | None:
        """Prove what was made in further formats, each held to its own precision; the worst is the stage's.

        What is in int8 is held to the meaning of the int8 model, which ``state`` has. None where nothing here runs any
        of them: their converters have checked them otherwise, and say so.
        """
        found = {}
        for one in made.converted:
            if one.checked:
                continue
            folder = self.folder / f"converted-{one.name}"
            folder.mkdir()
            for name, content in one.files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            path = folder / next(iter(one.files))
            if state is not None and one.precision == INT8:
                found[one.name] = self._int8(state, one, path)
            else:
                found[one.name] = self._other(one, path, made)
        if not found:
            return None
        worst = max(found.values(), key=_badness)
        return StageResult(made.stage, None, sum(one.bytes for one in made.converted), worst, parities=found)

    def quantised(self, state: PipelineState, made: Made, account: Int8Model) -> StageResult:
        """Prove a model in int8 on the user's data: that it runs as its graph says, and what it keeps of the original.

        Raises:
            InconclusiveError: next to nothing varies with the data.
        """
        assert state.int8 is not None
        path = self.folder / int8.FILE
        save(account.quantised.model, path)
        with opened(DEFAULT, path, Options(threads=self.threads, precision=INT8)) as run:
            parity = self._proven(run, state.int8, account, made.exported.contract.outputs, BACKENDS[DEFAULT].version())
        (one,) = made.converted
        return StageResult(made.stage, len(account.quantised.model.graph.node), one.bytes, parity, model=path)

    def _int8(self, state: PipelineState, one: Converted, path: Path) -> Parity:
        """Prove the int8 model in another format, against the meaning of the int8 graph and the original.

        Raises:
            InconclusiveError: next to nothing varies with the data, or it takes none of it.
        """
        account, contract = state.account(Int8Model), state.model.contract
        assert account is not None
        assert state.int8 is not None
        backend = backend_for(one.kind)
        sizes = Narrowed(contract.inputs, contract.outputs, one.narrowed_dims)
        options = Options(threads=self.threads, precision=INT8, inputs=contract.inputs, outputs=contract.outputs)
        with opened(backend, path, options) as run:
            version = f"{BACKENDS[backend].version()}, {one.kind}"
            return self._proven(sizes.taking(run), state.int8, account, contract.outputs, version, sizes)

    def _proven(
        self,
        run: Run,
        inputs: Int8Inputs,
        account: Int8Model,
        outputs: tuple[TensorSpec, ...],
        version: str,
        sizes: Narrowed | None = None,
    ) -> Parity:
        known = {case.name: case for case in self.cases}
        meaning: Sequence[Case] = [
            replace(case, inputs=known[case.name].inputs, selections=known[case.name].selections)
            for case in account.meaning
        ]
        if sizes is not None:
            meaning, left = sizes.fitting(meaning)
            if not meaning:
                raise InconclusiveError(f"it takes none of the test files, so nothing is known of it: {left[0]}")
        return prove_int8(
            run,
            meaning,
            self.cases,
            outputs,
            backend=version,
            batched=inputs.batched,
            snr=account.snr,
            limit=account.asked.least_snr,
        )

    def _other(self, one: Converted, path: Path, made: Made) -> Parity:
        """Prove a model in another format on the cases that it takes, and hold it to its own precision."""
        backend, contract = backend_for(one.kind), made.exported.contract
        sizes = Narrowed(contract.inputs, contract.outputs, one.narrowed_dims)
        cases, left_out = sizes.fitting(self.cases)
        if not cases:
            raise InconclusiveError(f"{one.name} takes none of the cases, so nothing is known of it: {left_out[0]}")
        held = one.held(PrecisionClass(made.precision, made.snr))
        options = Options(threads=self.threads, precision=held.name, inputs=contract.inputs, outputs=contract.outputs)
        with opened(backend, path, options) as run:
            version = f"{BACKENDS[backend].version()}, {one.kind}"
            images = self._images(held.name, cases, made.exported)
            parity = prove(sizes.taking(run), cases, contract.outputs, backend=version, snr=held.snr, images=images)
        return replace(parity, left_out=left_out)

    def _images(self, precision: str, cases: Sequence[Case], exported: Exported) -> varying.Wanted | None:
        contract = exported.contract
        return varying.wanted(precision, cases, contract.inputs, contract.outputs, contract.dims, data=self.data)

    def refuse(self, state: PipelineState, made: Made) -> str:
        """Say why it does not pass, and where it leaves the reference; nothing where it passes."""
        if made.result is None:  # nothing here runs it, and its converter has checked it otherwise
            assert made.converted
            assert all(one.checked for one in made.converted)
            return ""
        parity = made.result.parity
        if parity.ok:
            return ""
        if isinstance(made.account, Int8Model):
            return f"{parity.summary()}{_advice(made.account, parity)}"
        if parity.centred:
            return f"{parity.summary()}; the runtime does not compute what the int8 graph says, or not closely enough"
        picked = ordering(made.exported.model, [parity.worst.output], is_file=state.subject.graph is not None)
        return f"{parity.summary()}{self.where(state, made, parity)}{picked}"

    def where(self, state: PipelineState, made: Made, parity: Parity) -> str:
        """Say where a failing model leaves the one before it, or the module; nothing where only the user's gate fails.

        A runtime that computes what an exported graph says has that right: then only the module knows better.
        """
        if parity.worst.user_tolerance_failure or made.converted:
            return ""
        plain = state.made[0].exported.model if state.made else None
        known = origin.origins(made.exported.model if plain is None else plain)
        failing = next(case for case in self.cases if case.name == parity.worst.case)
        feeds = [(failing.name, failing.inputs)]
        try:
            found = locate(made.exported.model, feeds, reference=plain, known=known)
            if found is None and plain is None:
                graph = Variant("the exported graph", made.exported.model)
                found = first_divergence(VariantFactory(state.subject).variant("original"), graph, feeds, known)
        except AttnExportError as error:
            return f" (where it diverges could not be found: {error})"
        return f"; it diverges at {found.summary()}" if found else ""


def _badness(parity: Parity) -> tuple[bool, float]:
    """Order parities: those that fail, and then those that are furthest from what they are held to."""
    kept = parity.centred[0].least.median_db if parity.centred else 0.0
    return not parity.ok, parity.worst.normalized_error if not parity.centred else -kept


def _advice(account: Int8Model, parity: Parity) -> str:
    """Say what can be done about a model in int8 that does not pass."""
    if not parity.centred or parity.centred[0].ok:  # then it is the runtime that departs from the graph
        return "; the runtime does not compute what the int8 graph says: report that to its maker"
    clipped = f" ({account.clipped[0]})" if account.clipped else ""
    return f"; give more data that is like what the model will see{clipped}, or ask for less with --snr"
