"""Attack the product with hostile input, kind by kind, and count what ends well.

    python -m benchmarks.attack --kind all --count 10000 --seed 0 --keep DIR
    python -m benchmarks.attack --kind bundle --only 123        one attempt, and what became of it

Input is made from kind and seed alone. Most of it runs in worker processes that import once; what kills a worker,
hangs it or takes too much memory is run again through the real command line, whose parent has to contain it. ``--cli``
says how many more go that way. Failing input is kept in DIR, with the line that makes it again; an interrupted run
goes on where it was. Exits with 1 where anything but a clean end was met.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.attack import campaign, originals
from benchmarks.attack.kinds import KINDS, only


def main() -> int:
    """Print the table of classes, and the failures by their cause."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", action="append", choices=("all", *KINDS), help="of input; repeat for several")
    parser.add_argument("--count", type=int, default=1000, help="attempts of each kind, in process")
    parser.add_argument("--cli", type=int, default=10, help="attempts of each kind through the command line")
    parser.add_argument("--seed", type=int, default=0, help="of the first attempt")
    parser.add_argument("--only", type=int, action="append", metavar="SEED", help="run one attempt and show it")
    parser.add_argument("--mode", choices=("in", "cli"), default="in", help="how --only runs")
    parser.add_argument("--keep", type=Path, help="keep failing input and progress here")
    parser.add_argument("--limit", type=float, default=10.0, metavar="SECONDS", help="for one attempt in process")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    wanted = [kind for kind in KINDS if not options.kind or "all" in options.kind or kind in options.kind]
    honest = originals.folder()
    if options.only:
        return only(wanted[0], options.only, options.mode, honest, options.keep)
    plan = campaign.CampaignPlan(options.count, options.cli, options.seed, options.limit, options.workers, options.keep)
    tallies = [campaign.run(kind, plan, honest, lambda text: print(text, file=sys.stderr)) for kind in wanted]
    print(campaign.table(tallies))
    print(campaign.causes(tallies))
    return 0 if all(tally.clean == tally.tried for tally in tallies) else 1


if __name__ == "__main__":
    sys.exit(main())
