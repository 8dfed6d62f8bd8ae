"""``--weights`` that lie elsewhere: brought here once, as files that are then read like any other, and never run.

hub:ORG/NAME[@REVISION][/FILE]    a repository of the Hugging Face Hub, by its own client, into that client's cache
https://… file://…                one file, as timm publishes them; into this user's cache, by its address

A file whose name ends in a hash, as timm's do, is held to it, each time that it is used; every file is held to the
length that the server gave. safetensors go before PyTorch's own files.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from attn_export.cache import place
from attn_export.errors import CheckpointError, FetchError, UsageError
from attn_export.untrusted import files
from attn_export.untrusted import text as printed

#: In a repository without a file that was asked for: the first of these that is there.
FILES = ("model.safetensors", "pytorch_model.bin")
#: Bytes of a file; as ``export.weights.weights_file`` takes at most.
MOST = 64 << 30
#: Seconds that nothing may come for.
PATIENCE = 60.0
_HUB = re.compile(r"hub:([\w.-]+/[\w.-]+?)(?:@([\w.-]+))?(?:/([\w./-]+))?")


def local(text: str) -> Path:
    """Name the file that ``--weights`` means, after bringing it here where it lies elsewhere.

    Raises:
        FetchError: it is not here, and the package or the network to bring it is missing.
        CheckpointError: what came is not what its name says.
        UsageError: the address is of no kind that is known.

    >>> local("net.pth").name
    'net.pth'
    """
    if text.startswith("hub:"):
        return _of_hub(text)
    scheme = urlsplit(text).scheme if "://" in text else ""
    if not scheme:
        return Path(text)
    if scheme == "file":
        return Path(unquote(urlsplit(text).path))
    if scheme != "https":
        raise UsageError(printed.one_line(f"--weights takes a file, hub:ORG/NAME or https://…; got {text[:200]!r}"))
    return _of_address(text)


def _of_hub(text: str) -> Path:
    asked = _HUB.fullmatch(text)
    if asked is None or ".." in text:
        raise UsageError(printed.one_line(f"expected hub:ORG/NAME[@REVISION][/FILE], got {text[:200]!r}"))
    repository, revision, file = asked.groups()
    try:
        from huggingface_hub import hf_hub_download  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise FetchError(
            f"{text} needs the package huggingface_hub, which is not installed: pip install 'attn-export[hub]', or"
            " download the file and give its path"
        ) from error
    names = (file,) if file else FILES
    for name in names:
        try:
            return Path(hf_hub_download(repository, name, revision=revision))
        except Exception as error:  # noqa: PERF203  # two names; the client's errors have no base of their own
            if type(error).__name__ not in ("EntryNotFoundError", "RemoteEntryNotFoundError"):
                raise FetchError(_unreached(text, error)) from error
    raise FetchError(printed.one_line(f"{text} has no {', '.join(names)}; name its file: hub:{repository}/FILE"))


def _of_address(address: str) -> Path:
    from http.client import HTTPException
    from urllib.request import urlopen

    name = re.sub(r"[^\w.-]", "_", Path(unquote(urlsplit(address).path)).name)[-150:] or "weights"
    folder = place.of_user() / "weights" / hashlib.sha256(address.encode()).hexdigest()[:16]
    promised = _promised(name)
    if (folder / name).is_file() and (not promised or files.sha256(folder / name).startswith(promised)):
        return folder / name
    digest, size, part = hashlib.sha256(), 0, None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            urlopen(address, timeout=PATIENCE) as came,  # noqa: S310  # https, see local
            tempfile.NamedTemporaryFile(dir=folder, prefix=".", delete=False) as file,
        ):
            part = Path(file.name)
            if not came.geturl().startswith("https://"):
                raise OSError("the server sends on to an address that is not https")
            while chunk := came.read(1 << 20):
                size += len(chunk)
                digest.update(chunk)
                file.write(chunk)
                if size > MOST:
                    raise CheckpointError(f"{name} is larger than {MOST >> 30} GB")
        whole = came.headers.get("Content-Length")
        if whole is not None and int(whole) != size:  # reading piece by piece, Python takes a cut for the end
            raise OSError(f"{size} of {whole} bytes came")
        _held(name, digest.hexdigest())
        Path(part).replace(folder / name)
    except (OSError, HTTPException) as error:
        raise FetchError(_unreached(address, error)) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
    return folder / name


def _held(name: str, digest: str) -> None:
    """Hold a file to the hash at the end of its name, as timm and torchvision write them."""
    promised = _promised(name)
    if not digest.startswith(promised):
        raise CheckpointError(f"expected {name} to have the sha256 {promised}…, got {digest[:16]}…: fetch it again")


def _promised(name: str) -> str:
    """Return the hash in a name; empty where there is none.

    >>> _promised("resnet18-5c106cde.pth"), _promised("net.pth")
    ('5c106cde', '')
    """
    found = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    return found[1] if found else ""


def _unreached(what: str, error: BaseException) -> str:
    why = printed.first_line(error)
    return printed.one_line(f"{what} could not be fetched ({why}); download it elsewhere and give the file's path")
