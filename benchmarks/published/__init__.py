"""Modules of timm and of the authors, a source a file, and the entries that their weights go into."""

from benchmarks.published import authors, libraries
from benchmarks.published.pair import Pair

PAIRS: tuple[Pair, ...] = (*libraries.PAIRS, *authors.PAIRS)
