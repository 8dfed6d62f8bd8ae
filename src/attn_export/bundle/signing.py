"""Sign a bundle, and check who signed it, with OpenSSH's own tool and format: as git signs commits, with the same keys.

What is signed is the manifest, which holds the hash of every other file; what that says is in docs/security.md.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from attn_export import bundle
from attn_export.bundle import Bundle
from attn_export.errors import BundleError, GateError, LoadError, WriteError
from attn_export.untrusted import files, text

#: What a signature is for, so that none that was given for something else holds here.
NAMESPACE = "attn-export"
#: Seconds that ssh-keygen may take: an agent may ask a person, or a security key wait for a touch.
PATIENCE = 120.0
_MOST_SIGNATURE, _MOST_SIGNERS = 64 * files.KB, 16 * files.MB


def sign(whole: Bundle, key: Path) -> Path:
    """Sign a bundle that was read; where the signature lies.

    Raises:
        LoadError: there is no ssh-keygen or no such key, or it cannot be used without being asked for a passphrase.
        WriteError: it is signed already, or the signature cannot be written.
        BundleError: the bundle is not any more what was read.
    """
    if os.path.lexists(whole.signature):
        raise WriteError(f"{whole.path} is signed already; remove {whole.signature} to sign it anew")
    files.regular(key, files.MB, LoadError)
    done = _keygen(["-Y", "sign", "-n", NAMESPACE, "-f", _path(key)], _manifest(whole))
    if done.returncode or not done.stdout.startswith(b"-----BEGIN SSH SIGNATURE-----"):
        raise LoadError(
            f"{key} did not sign: {_said(done)}; a key with a passphrase wants an agent: start `eval $(ssh-agent)`,"
            " `ssh-add KEY`, and give the public key, `--key KEY.pub`"
        )
    _write(whole, done.stdout)
    return whole.signature


def signer(whole: Bundle, signers: Path) -> str:
    """Who of ``signers`` (OpenSSH's file of allowed signers) signed a bundle that was read.

    Raises:
        GateError: nobody did, or what is signed is something else.
        LoadError: there is no ssh-keygen, or no such file.
    """
    files.regular(signers, _MOST_SIGNERS, LoadError)
    if not os.path.lexists(whole.signature):
        raise GateError(f"{whole.path} is not signed, and a signature by one of {signers} was asked for")
    if whole.signature.is_symlink():
        raise GateError(f"{whole.signature} is a link, and no signature")
    signature, content = files.read(whole.signature, _MOST_SIGNATURE, BundleError), _manifest(whole)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "signature")  # what was read is what is checked
        copy.write_bytes(signature)
        found = _keygen(["-Y", "find-principals", "-s", str(copy), "-f", _path(signers)])
        names = [line for line in found.stdout.decode("utf-8", "replace").splitlines() if line.strip()]
        if found.returncode or not names:
            raise GateError(f"{whole.path} is signed by nobody in {signers}: {_said(found)}")
        for name in names:
            done = _keygen(
                ["-Y", "verify", "-n", NAMESPACE, "-s", str(copy), "-f", _path(signers), "-I", name], content
            )
            if not done.returncode:
                return text.one_line(name)
    who = text.one_line(" or ".join(names))[:200]
    raise GateError(f"the signature of {whole.path} by {who} does not hold: {_said(done)}")


def _manifest(whole: Bundle) -> bytes:
    """Read the very bytes that the bundle's digest is of."""
    content = (whole.path / bundle.MANIFEST).read_bytes()
    bundle.unchanged(whole)
    return content


def _path(path: Path) -> str:
    """Write a path that ssh-keygen cannot take for an option."""
    return os.path.abspath(path)  # noqa: PTH100  # resolve() would follow links


def _keygen(words: Sequence[str], content: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run ssh-keygen with nobody to ask: no terminal, no window, and the content for its input.

    Raises:
        LoadError: it is not installed, or does not end.
    """
    program = shutil.which("ssh-keygen")
    if program is None or not Path(program).is_absolute():
        raise LoadError("signatures need ssh-keygen, which is not installed: get OpenSSH (openssh-client)")
    kept = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    quiet = {**kept, "SSH_ASKPASS": "/nonexistent", "SSH_ASKPASS_REQUIRE": "never", "LC_ALL": "C"}
    try:
        return subprocess.run(
            [program, *words],
            input=content,
            capture_output=True,
            check=False,
            env=quiet,
            timeout=PATIENCE,
            start_new_session=True,  # away from the terminal, which it would ask for a passphrase
        )
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"ssh-keygen did not end within {PATIENCE:.0f} s; is an agent waiting for somebody?") from error
    except (OSError, ValueError) as error:
        raise LoadError(f"{program} cannot be run: {error}") from error


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = (done.stderr or done.stdout).decode("utf-8", "replace").strip().splitlines()
    return text.one_line(lines[-1])[:200] if lines else f"ssh-keygen gave exit code {done.returncode}"


def _write(whole: Bundle, signature: bytes) -> None:
    """Put the signature in its place in one step: a bundle that is being read never holds half of one."""
    partial: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(".partial", f".{whole.path.name[:100]}.sig.", whole.path.resolve().parent)
        partial = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(signature)
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        bundle.unchanged(whole)
        os.link(partial, whole.signature)  # fails where somebody else has signed meanwhile
    except OSError as error:
        why = error.strerror or str(error)
        raise WriteError(f"the signature of {whole.path} cannot be written: {why}; free some space there") from error
    finally:
        if partial is not None:
            with contextlib.suppress(OSError):
                partial.unlink()
