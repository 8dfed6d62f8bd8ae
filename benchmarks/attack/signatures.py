"""Hostile signatures, keys, lists of signers and digests, for ``sign`` and ``verify``."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from attn_export import bundle
from benchmarks.attack import mutate
from benchmarks.attack.attempt import Attempt


def hostile_signature(work: Path, originals: Path, rng: Random) -> Attempt:
    """Make a signed bundle with a key and a list of signers, of which one was harmed, and a command that reads them."""
    source = originals / "signed"
    shutil.copytree(source / "bundle", work / "b")
    for name in ("key", "key.pub", "locked", "signers"):
        shutil.copyfile(source / name, work / name)
    (work / "key").chmod(0o600)
    (work / "locked").chmod(0o600)
    signature = work / "b" / bundle.SIGNATURE
    pick = rng.random()
    if pick < 0.3:
        said = _armoured(signature, rng)
    elif pick < 0.55:
        said = _signers(work / "signers", rng)
    elif pick < 0.7:
        said = _digest_or_manifest(work, rng)
        if said.startswith("sha256") or ":" in said[:12]:
            return Attempt(("verify", "b", "--expect", said), "a digest")
    elif pick < 0.85:
        return _key(work, rng)
    else:
        said = mutate.place_file(rng.choice([signature, work / "signers"]), rng)
    json = ("--json",) if rng.random() < 0.3 else ()
    return Attempt(("verify", "b", "--signers", "signers", *json), said, kind_of_output="json" if json else "")


def _armoured(file: Path, rng: Random) -> str:
    """Harm a signature: what is inside its armour, or the armour."""
    content = file.read_bytes()
    if rng.random() < 0.5:
        lines = content.split(b"\n")
        body = mutate.bytes_of(base64.b64decode(b"".join(lines[1:-2])), rng)
        file.write_bytes(b"\n".join([lines[0], base64.encodebytes(body).strip(), lines[-2], b""]))
        return "signature: what is inside"
    file.write_bytes(rng.choice([mutate.text_bytes, mutate.bytes_of])(content, rng))
    return "signature: bytes"


def _signers(file: Path, rng: Random) -> str:
    """Harm a list of signers."""
    line = file.read_text(encoding="utf-8").strip()
    who, kind, key = line.split()[:3]
    wild = rng.choice(mutate.TEXTS).encode("utf-8", "replace").decode()
    texts: list[Callable[[], str]] = [
        lambda: f"{wild} {kind} {key}",
        lambda: f"{who} {wild} {kind} {key}",
        lambda: f"{who} {kind} {wild}",
        lambda: f'{who} namespaces="{wild}" {kind} {key}',
        lambda: f"{who} cert-authority {kind} {key}",
        lambda: f'{who} valid-after="{wild}" {kind} {key}',
        lambda: f"* {kind} {key}",
        lambda: f"!{who},* {kind} {key}",
        lambda: f"{who},{who} {kind} {key} {wild}",
        lambda: f"{line}\n" * rng.choice([2, 3000]),
        lambda: f"# {line}",
        lambda: f"{line}\r\n",
        lambda: f"-rf {kind} {key}",
        lambda: f"{who} {kind} {key[:-5]}",
        lambda: f"{who} ssh-rsa {key}",
        lambda: f'"{wild}" {kind} {key}',
    ]
    if rng.random() < 0.25:
        file.write_bytes(mutate.text_bytes(file.read_bytes(), rng))
        return "signers: bytes"
    file.write_text(rng.choice(texts)(), encoding="utf-8", errors="replace")
    return "signers: another line"


def _digest_or_manifest(work: Path, rng: Random) -> str:
    """Either a wild digest, or another manifest under the same signature."""
    if rng.random() < 0.5:
        wild = rng.choice([*mutate.TEXTS, *mutate.NUMBERS]).replace("\0", "").replace("\ud800", "\udcff")[:20_000]
        right = bundle.sha256(work / "b" / bundle.MANIFEST)
        return "sha256:" + rng.choice([wild, right, right.upper(), right[:-1], f"{right}0", f" {right}", right[::-1]])
    said = mutate.json_file(work / "b" / bundle.MANIFEST, rng)
    return f"signed and changed, {said}"


def _key(work: Path, rng: Random) -> Attempt:
    """Sign with a key that is none, or that wants a passphrase."""
    name = rng.choice(["key"] * 5 + ["key.pub", "locked", "none", "b", "signers", "-rf"])
    file = work / name
    said = f"the key {name}"
    if name == "key":
        if rng.random() < 0.7:
            content = file.read_bytes()
            file.write_bytes(rng.choice([mutate.text_bytes, mutate.bytes_of])(content, rng))
            said = "key: bytes"
        elif rng.random() < 0.7:
            said = mutate.place_file(file, rng)
    return Attempt(("sign", "b", "--key", name), said, writes=(f"b/{bundle.SIGNATURE}", "b"))
