"""The options of every command that say how much it may take; the parent reads them from the shared page."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from attn_export.process import activity

_GB = 1e9
#: More gigabytes than any machine has: beyond it there is no limit.
_MOST = 1e6
_TIMEOUT = 600.0


def _timeout(seconds: float) -> float:
    activity.limits(timeout=seconds)
    return seconds


def _memory(amount: float | None) -> float | None:
    if amount is not None:
        activity.limits(memory=int(min(amount, _MOST) * _GB))
    return amount


_OPTIONS = {
    "timeout": (
        Annotated[
            float,
            typer.Option(
                min=0,
                metavar="SECONDS",
                callback=_timeout,
                help="How long one step may take, such as one run of the model; 0 for no limit.",
            ),
        ],
        _TIMEOUT,
    ),
    "memory_limit": (
        Annotated[
            float | None,
            typer.Option(
                min=0.1,
                metavar="GB",
                callback=_memory,
                help="Memory limit of the whole run; by default nine tenths of what is free.",
            ),
        ],
        None,
    ),
    "debug": (Annotated[bool, typer.Option("--debug", help="Show the traceback of what fails.")], False),
}


def contained(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command ``--timeout``, ``--memory-limit`` and ``--debug``, which act before it runs."""

    @functools.wraps(command)
    def run(**options: Any) -> None:
        for name in _OPTIONS:
            options.pop(name)
        with activity.doing(f"running the command {command.__name__.rstrip('_')}"):
            command(**options)

    own = inspect.signature(command, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in _OPTIONS.items()
    ]
    run.__signature__ = own.replace(parameters=[*own.parameters.values(), *more])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in run.__signature__.parameters.values()}  # type: ignore[attr-defined]
    return run
