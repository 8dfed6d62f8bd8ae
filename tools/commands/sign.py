"""``sign``: put a signature beside a bundle's manifest."""

from __future__ import annotations

from pathlib import Path

from attn_export import bundle
from attn_export.bundle import signing
from attn_export.tools import console
from attn_export.untrusted import text


def sign(path: Path, key: Path, *, as_json: bool) -> None:
    """Read a bundle, and sign it with an SSH key."""
    whole = bundle.read(path)
    place = signing.sign(whole, key)
    if as_json:
        console.emit({"bundle": str(path), "digest": whole.digest, "signature": str(place)})
        return
    console.say(f"{path} is signed: {whole.digest}, for {signing.NAMESPACE}")
    console.say(f"check the signature: attn-export verify {text.word(str(path))} --signers FILE")
