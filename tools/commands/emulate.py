"""``verify --emulate``: the same command on an emulated processor; nothing is downloaded before it was said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attn_export.deploy_tests import backends
from attn_export.errors import BackendMissingError, BundleError, UnknownNameError, UsageError
from attn_export.pipeline.progress import Progress
from attn_export.process.supervisor import StopError
from attn_export.tools import console
from attn_export.tools.emulation import guest, wheels
from attn_export.tools.progress import TerminalProgress

if TYPE_CHECKING:
    from attn_export.tools.commands.device import VerifyOptions


def verify(asked: VerifyOptions, machine: str | None, cpu: str | None, words: Sequence[str]) -> None:
    """Run ``words``, which mean ``asked``, on an emulated ``machine``, and end as they end there.

    Raises:
        SystemExit: with the exit code of the command there.
        BackendMissingError: it cannot be had here.
        UsageError: something asked for cannot work there.
        BundleError: there is no such folder.
    """
    if machine is None:
        raise UsageError("--cpu is the processor of --emulate; add --emulate aarch64")
    if machine not in guest.MACHINES:
        raise UnknownNameError("machine to emulate", machine, guest.MACHINES)
    if asked.fresh:
        raise UsageError("--fresh evaluates with torch, which is not on the emulated machine; use it without --emulate")
    for path in asked.paths:
        if not path.is_dir():
            raise BundleError(f"{path} is not a bundle: there is no such folder")
    chosen = tuple(dict.fromkeys((*asked.require, *asked.backends))) or (backends.DEFAULT,)
    wanted = wheels.requirements(chosen, images=asked.data is not None)
    if why := guest.missing():
        raise BackendMissingError(f"--emulate {machine} is not possible here: {why}")
    said = guest.announcement(wanted)
    if said:
        console.say(said, err=True)
    try:
        made = guest.made(cpu or guest.CPU, wanted, TerminalProgress(1) if said else Progress())
    except BackendMissingError as error:
        raise BackendMissingError(f"--emulate {machine} is not possible here: {error}") from error
    try:
        code = guest.run(made, words)
    except StopError:  # it was told so too, and has said it
        console.emitted_elsewhere()
        raise
    raise SystemExit(code)
