"""Bring parcels to a device: each once, whole or not at all, and not where the disk has no room."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import IO

from attn_export.errors import DeviceError, WriteError
from attn_export.pipeline.progress import Progress
from attn_export.tools.devices.connection import Connection
from attn_export.tools.devices.parcel import LAST, Parcel
from attn_export.tools.devices.probe import Device

#: Bytes that must stay free there: for results, and for what Python compiles.
ROOM = 64 * 2**20
#: Seconds that one parcel may take: a gigabyte over a slow line.
_LONG = 7200.0

#: Which of the parcels are there: they are marked as used.
_THERE = """
root=$1; shift
for place in "$@"; do [ -d "$root/$place" ] && touch "$root/$place" && printf "there=%s\n" "$place"; done
true
"""
#: What was left half a day ago is nobody's; what nobody used for two months is not kept.
_TAKE = """
root=$1 kind=$2 key=$3 new=$root/$2/.new.$4
umask 077; mkdir -p "$root/$kind" || exit 20
find "$root/$kind" -mindepth 1 -maxdepth 1 -mmin +720 -name ".new.*" -exec rm -rf {} + 2>/dev/null
find "$root/$kind" -mindepth 1 -maxdepth 1 -mtime +60 -exec rm -rf {} + 2>/dev/null
mkdir "$new" || exit 20
if tar "-x${5}f" - -C "$new" && [ -f "$new/$6" ] && rm "$new/$6"; then
  mv -T "$new" "$root/$kind/$key" 2>/dev/null || [ -d "$root/$kind/$key" ] || exit 21
  rm -rf "$new"
else
  rm -rf "$new"; df -Pk "$root" | { read -r _; read -r _ _ _ free _; printf "free=%s\n" "$free"; }
  exit 22
fi
"""


def push(line: Connection, device: Device, parcels: Sequence[Parcel], progress: Progress) -> int:
    """Bring to a device what it lacks of ``parcels``, and return how many bytes that was.

    Raises:
        WriteError: its disk has no room, or cannot be written.
        DeviceError: it does not take them.
        LostError: it is gone.
    """
    there = {value for _, value in line.call(_THERE, device.root, *(one.place for one in parcels)).fields()}
    lacking = [one for one in dict.fromkeys(parcels) if one.place not in there]
    need = sum(one.size for one in lacking)
    if lacking and device.free < need + ROOM:
        raise WriteError(
            f"{device.host} has {_mb(device.free)} MB free for {device.root}, and {_mb(need + ROOM)} MB are needed;"
            " make room there, or name another folder in its XDG_CACHE_HOME"
        )
    for parcel in lacking:
        with progress.stage(f"push {parcel.title} to {device.host}"):
            _one(line, device, parcel, progress)
    return need


def _one(line: Connection, device: Device, parcel: Parcel, progress: Progress) -> None:
    whole = parcel.size

    def feed(stream: IO[bytes]) -> None:
        parcel.write(stream, lambda done: progress.detail(f"{_mb(done)} of {_mb(whole)} MB"))

    words = (device.root, parcel.kind, parcel.key, secrets.token_hex(8), "z" if parcel.packed else "", LAST)
    reply = line.call(_TAKE, *words, feed=feed, seconds=_LONG)
    if reply.code:
        said = reply.err.strip().splitlines()[-1:] or ["it said nothing"]
        free = dict(reply.fields()).get("free", "")
        if "No space left" in reply.err or (free.isdigit() and int(free) * 1024 < ROOM):
            raise WriteError(
                f"the disk of {device.host} is full: {parcel.title} takes {_mb(whole)} MB below {device.root};"
                " make room there"
            )
        if reply.code in (20, 21):
            raise WriteError(f"{device.host} cannot write {device.root}: {said[0]}")
        raise DeviceError(f"{device.host} did not take {parcel.title}: {said[0]}")


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f}" if count < 10e6 else f"{count / 1e6:.0f}"
