"""Mutation testing of our own code: do the tests that hold a module notice a fault planted in it?

    pip install -e '.[mutation]'
    python -m benchmarks.self_mutation --each 12 [--seed 0] [MODULE …]

cosmic-ray names every fault that it can plant in a module; of those a sample is drawn, each from another place in the
text. Each is planted in a copy of the working tree, and the tests that hold the module are run on it. Faults in
annotations are left out, for nothing evaluates them. Those that compute the same are known
(``benchmarks/equivalent_mutants.py``), and do not count. Printed are the score of each module and, of every fault that
survived, what it changed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.mutant_sample import Mutant, Tried, placed, sample, table, verdict

ROOT = Path(__file__).parents[1]
_ALGEBRA = (
    "tests/reparam/test_sums.py",
    "tests/reparam/test_compose.py",
    "tests/reparam/test_transfer.py",
    "tests/reparam/test_linconv.py",
)
_PARITY = (
    "tests/deploy_tests/test_parity_verdict.py",
    "tests/deploy_tests/test_slice_limits.py",
    "tests/deploy_tests/test_slices.py",
    "tests/deploy_tests/test_snr.py",
    "tests/deploy_tests/test_parity.py",
)
#: Modules, and the tests that hold each, the fastest first.
HELD_BY: dict[str, tuple[str, ...]] = {
    "deploy_tests/parity/compare.py": _PARITY,
    "deploy_tests/parity/slices.py": _PARITY,
    "deploy_tests/latency/statistics.py": ("tests/deploy_tests/test_statistics.py",),
    "deploy_tests/latency/comparison.py": ("tests/deploy_tests/test_comparison.py",),
    "src/attn_export/bundle/cases.py": ("tests/test_bundle_cases.py", "tests/deploy_tests/test_slices.py"),
    "src/attn_export/bundle/slices.py": ("tests/test_bundle_cases.py", "tests/deploy_tests/test_slices.py"),
    "export/onnx/contract.py": ("tests/export/test_contract.py",),
    "export/audit/constants.py": ("tests/export/test_audit_norms.py", "tests/export/test_audit.py"),
    "export/audit/attributes.py": ("tests/export/test_audit.py", "tests/export/test_audit_meaning.py"),
    "export/reference.py": (
        "tests/export/test_reference_plan.py",
        "tests/export/test_reference.py",
        "tests/export/test_cases.py",
    ),
    "export/rounded_runs.py": ("tests/export/test_reference.py", "tests/export/test_cases.py"),
    "export/cases/doubt.py": ("tests/export/test_cases.py",),
    "export/cases/plan.py": ("tests/export/test_reference_plan.py", "tests/export/test_cases.py"),
    "pipeline/divergence/bisect.py": ("tests/pipeline/test_bisect.py",),
    "reparam/algebra/sums.py": _ALGEBRA,
    "reparam/algebra/compose.py": _ALGEBRA,
    "reparam/algebra/linconv.py": _ALGEBRA,
    "reparam/algebra/positions.py": ("tests/reparam/test_transfer.py", "tests/reparam/test_border_maps.py"),
    "reparam/algebra/transfer.py": ("tests/reparam/test_transfer.py", "tests/reparam/test_guards.py"),
}
#: What a run under a mutant may take, relative to the run without, and at least, in seconds.
PATIENCE, LEAST = 5.0, 60.0
_LEFT = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", ".hypothesis", ".venv", "dist", "build", "*.egg-info")


class Bench:
    """A copy of the working tree in which faults are planted, one at a time."""

    def __init__(self, folder: Path, tool: str) -> None:
        self.root, self.tool, self.session = folder / "copy", tool, folder / "session"
        shutil.copytree(ROOT, self.root, symlinks=True, ignore=_LEFT)
        self.env = {**os.environ, "PYTHONPATH": f"{self.root / 'src'}{os.pathsep}{self.root}"}
        self.env["OMP_NUM_THREADS"] = "1"
        where = self._out(sys.executable, "-c", "import attn_export; print(attn_export.__file__)")
        if not Path(where.strip()).is_relative_to(self.root):
            raise SystemExit(f"expected the tests to import the copy at {self.root}, got {where.strip()}")

    def mutants(self, module: str) -> list[Mutant]:
        """List all that the tool can do to a module, annotations aside."""
        config, base = self.session.with_suffix(".toml"), self.session.with_suffix(".sqlite")
        base.unlink(missing_ok=True)
        config.write_text(
            f'[cosmic-ray]\nmodule-path = "{module}"\ntimeout = {LEAST}\nexcluded-modules = []\ntest-command = "true"\n'
            '[cosmic-ray.distributor]\nname = "local"\n',
            encoding="utf-8",
        )
        self._out(self.tool, "init", str(config), str(base))
        return placed(self._out(self.tool, "dump", str(base)), (self.root / module).read_text(encoding="utf-8"))

    def seconds(self, tests: Iterable[str]) -> float:
        """Time the tests without a mutant; they must pass. What Python compiles here, it need not under a mutant."""
        began = time.perf_counter()
        done = subprocess.run(_command(tests), check=False, cwd=self.root, env=self.env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"expected the tests to pass without a mutant, got\n{done.stdout[-2000:]}")
        return time.perf_counter() - began

    def attempt(self, module: str, mutant: Mutant, tests: Iterable[str], patience: float) -> Tried:
        """Plant one, run the tests, and say what became of it."""
        command = shlex.join(("timeout", "-k", "5", f"{patience:.0f}", *_command(tests)))
        said = self._out(self.tool, "mutate-and-test", module, mutant.operator, str(mutant.occurrence), command)
        return verdict(module, mutant, json.loads(said))

    def _out(self, *words: str) -> str:
        done = subprocess.run(words, check=False, cwd=self.root, env=self.env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(words[:2])} broke:\n{done.stdout[-500:]}{done.stderr[-1500:]}")
        return done.stdout


def _command(tests: Iterable[str]) -> list[str]:
    options = ("-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow and not fuzz and not rtx")
    return [sys.executable, "-m", "pytest", *options, *tests]


def tried(bench: Bench, module: str, each: int, seed: int) -> Iterator[Tried]:
    """Try a sample of the mutants of a module."""
    tests = HELD_BY[module]
    patience = max(LEAST, PATIENCE * bench.seconds(tests))
    for mutant in sample(bench.mutants(module), each, f"{seed} {module}"):
        yield bench.attempt(module, mutant, tests, patience)


def main() -> None:
    """Try, and print each as it is done, with what it changed where it survived; then the table."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("modules", nargs="*", metavar="MODULE", help=f"any of {', '.join(HELD_BY)}; by default all")
    words.add_argument("--each", type=int, default=12, help="mutants of each module")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--tool", default="cosmic-ray", help="the command cosmic-ray, where it is not on the path")
    asked = words.parse_args()
    if unknown := set(asked.modules) - set(HELD_BY):
        raise SystemExit(f"expected modules of the table, got {', '.join(sorted(unknown))}; add them to HELD_BY")
    found: list[Tried] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), asked.tool)
        for module in asked.modules or HELD_BY:
            for one in tried(bench, module, asked.each, asked.seed):
                found.append(one)
                print(f"{one.outcome:10} {module}:{one.mutant.line} {one.mutant.operator}", flush=True)
                if one.outcome == "survived":
                    print(f"    - {one.old}\n    + {one.new}", flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
