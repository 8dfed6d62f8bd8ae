"""Many attempts of one kind: run, confirmed, counted, kept, and gone on with where a run was interrupted."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.attack import inside
from benchmarks.attack.attempt import CONTAINED, FLAWS, AttemptOutcome
from benchmarks.attack.kinds import KINDS, lay_out
from benchmarks.attack.pool import Pool, Task

#: Attempts between two notes of the progress.
CHUNK = 500
#: Failing inputs of one cause that are kept, and named.
EACH = 3
#: Deaths, hangs and floods of memory of one kind that are confirmed through the command line in one chunk.
CONFIRMED = 25


@dataclass(frozen=True)
class CampaignPlan:
    """How many attempts, how, and where failing input is kept."""

    count: int
    cli: int
    seed: int
    limit: float = 10.0
    workers: int = 2
    keep: Path | None = None


@dataclass
class Tally:
    """What became of the attempts of one kind.

    Attributes:
        kind: of input.
        tried: attempts, and of these through the command line.
        clean: those that ended as a run should.
        taken: those with exit code 0 or 1: the input was believed, and all the work was done on it.
        contained: those that killed, hung or flooded a worker, and ended well under the command line's parent.
        flaws: how often each was met.
        failures: by cause: how often, and the first outcomes.
    """

    kind: str
    tried: int = 0
    by_cli: int = 0
    clean: int = 0
    taken: int = 0
    contained: int = 0
    seconds: float = 0.0
    next: int = 0
    flaws: Counter[str] = field(default_factory=Counter)
    failures: dict[str, tuple[int, list[AttemptOutcome]]] = field(default_factory=dict)

    def add(self, outcome: AttemptOutcome) -> bool:
        """Count an outcome; whether it is a failure whose cause is still rare."""
        self.tried += 1
        self.by_cli += outcome.mode == "cli"
        self.clean += outcome.clean
        self.taken += outcome.code in (0, 1)
        self.flaws.update(outcome.flaws)
        if outcome.clean:
            return False
        count, known = self.failures.get(outcome.signature, (0, []))
        rare = len(known) < EACH
        self.failures[outcome.signature] = (count + 1, [*known, outcome] if rare else known)
        return rare

    def to_dict(self) -> str:
        """All of it, to go on later."""
        failures = {cause: (count, [item.dumps() for item in known]) for cause, (count, known) in self.failures.items()}
        return json.dumps({**self.__dict__, "flaws": dict(self.flaws), "failures": failures})

    @classmethod
    def of_json(cls, text: str) -> Tally:
        """As it was."""
        values = json.loads(text)
        failures = {
            cause: (count, [AttemptOutcome.loads(item) for item in known])
            for cause, (count, known) in values["failures"].items()
        }
        return cls(**{**values, "flaws": Counter(values["flaws"]), "failures": failures})


def run(kind: str, plan: CampaignPlan, honest: Path, said: Callable[[str], None] = lambda _: None) -> Tally:
    """Run the attempts of one kind: those in process in chunks, then those through the command line."""
    inside.prepare(KINDS[kind].imports)
    pool = Pool({name: item.make for name, item in KINDS.items()}, honest, plan.limit, plan.workers)
    tally = _known(kind, plan)
    last = plan.seed + plan.count
    while tally.next < last:
        began = time.perf_counter()
        seeds = range(tally.next, min(tally.next + CHUNK, last))
        doubtful = [o for o in pool.run(Task(kind, s, "in") for s in seeds) if not _count(o, tally, plan, honest)]
        _confirm(doubtful, pool, tally, plan, honest)
        tally.next = seeds.stop
        tally.seconds += time.perf_counter() - began
        _note(tally, plan)
        said(f"{kind}: {tally.tried} tried, {tally.tried - tally.clean} not clean, {tally.seconds:.0f} s")
    if tally.by_cli < plan.cli:
        began = time.perf_counter()
        # Seeds of their own: what is run here is another input, not the same once more.
        seeds = range(10**6 + plan.seed + tally.by_cli, 10**6 + plan.seed + plan.cli)
        for outcome in pool.run(Task(kind, seed, "cli") for seed in seeds):
            _keep(outcome, tally.add(outcome), plan, honest)
        tally.seconds += time.perf_counter() - began
        _note(tally, plan)
        said(f"{kind}: {tally.by_cli} through the command line, {tally.tried - tally.clean} not clean in all")
    return tally


def _count(outcome: AttemptOutcome, tally: Tally, plan: CampaignPlan, honest: Path) -> bool:
    """Count what is certain; False for what only the real parent can judge."""
    if outcome.flaws and set(outcome.flaws) <= set(CONTAINED):
        return False
    _keep(outcome, tally.add(outcome), plan, honest)
    return True


def _confirm(doubtful: Sequence[AttemptOutcome], pool: Pool, tally: Tally, plan: CampaignPlan, honest: Path) -> None:
    """Run again, through the command line, what a worker did not survive."""
    before = {outcome.seed: outcome for outcome in doubtful[:CONFIRMED]}
    for outcome in pool.run(Task(outcome.kind, seed, "cli") for seed, outcome in before.items()):
        first = before[outcome.seed]
        if outcome.clean:
            tally.contained += 1
            tally.add(replace(first, flaws=()))
        else:
            both = replace(outcome, text=f"in process: {first.text}; command line: {outcome.text}", mode="in")
            _keep(both, tally.add(both), plan, honest)
    for outcome in doubtful[CONFIRMED:]:
        _keep(outcome, tally.add(outcome), plan, honest)


def _known(kind: str, plan: CampaignPlan) -> Tally:
    file = plan.keep / f"{kind}.json" if plan.keep else None
    if file and file.is_file():
        return Tally.of_json(file.read_text(encoding="utf-8"))
    return Tally(kind, next=plan.seed)


def _note(tally: Tally, plan: CampaignPlan) -> None:
    if plan.keep:
        plan.keep.mkdir(parents=True, exist_ok=True)
        partial = plan.keep / f"{tally.kind}.json.new"
        partial.write_text(tally.to_dict(), encoding="utf-8")
        partial.replace(plan.keep / f"{tally.kind}.json")


def _keep(outcome: AttemptOutcome, rare: bool, plan: CampaignPlan, honest: Path) -> None:
    """Lay out failing input where it can be looked at."""
    if not plan.keep or not rare:
        return
    target = plan.keep / f"{outcome.kind}-{outcome.seed}"
    lay_out(outcome.kind, outcome.seed, target / "work", honest)
    mode = " --mode cli" if outcome.mode == "cli" else ""
    line = f"python -m benchmarks.attack --kind {outcome.kind} --only {outcome.seed}{mode}"
    words = " ".join(map(repr, outcome.words))
    text = (
        f"{line}\ncd {target / 'work'} && attn-export {words}\n\n{outcome.signature}\n{outcome.what}\n{outcome.text}\n"
    )
    (target / "README").write_text(text, encoding="utf-8", errors="backslashreplace")


def table(tallies: Sequence[Tally]) -> str:
    """Write the table of classes, as Markdown."""
    heads = ("kind", "inputs", "by command line", "clean ends", "of these taken", "contained", *FLAWS, "ms an input")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for tally in tallies:
        cost = 1000 * tally.seconds / max(tally.tried, 1)
        cells = (
            tally.kind,
            tally.tried,
            tally.by_cli,
            tally.clean,
            tally.taken,
            tally.contained,
            *(tally.flaws[f] for f in FLAWS),
            f"{cost:.1f}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def causes(tallies: Sequence[Tally]) -> str:
    """Every cause of failure, most frequent first, with seeds."""
    lines = []
    for tally in tallies:
        for cause, (count, known) in sorted(tally.failures.items(), key=lambda item: -item[1][0]):
            seeds = ", ".join(f"{outcome.seed}{'c' if outcome.mode == 'cli' else ''}" for outcome in known)
            first = known[0]
            said = " ".join(first.text.splitlines()[:1])[:200]
            lines.append(f"- **{tally.kind}** ×{count} `{cause}` (seeds {seeds}): {first.what[:80]}: {said}")
    return "\n".join(lines).encode("ascii", "backslashreplace").decode()
