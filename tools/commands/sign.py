"""``sign``: put a signature beside a bundle's manifest."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from attn_export import bundle
from attn_export.tools.device import signing
from attn_export.untrusted import text


def sign(path: Path, key: Path, as_json: bool) -> None:
    """Read a bundle, and sign it with an SSH key."""
    whole = bundle.read(path)
    place = signing.sign(whole, key)
    if as_json:
        typer.echo(json.dumps({"bundle": str(path), "digest": whole.digest, "signature": str(place)}))
        return
    typer.echo(f"{text.one_line(str(path))} is signed: {whole.digest}, for {signing.NAMESPACE}")
    typer.echo(f"hold it to that: attn-export verify {text.word(str(path))} --signers FILE")
