"""Weights that lie elsewhere: found by address, held to the hash in their name, or a sentence why they cannot come."""

from __future__ import annotations

import hashlib
import io
import sys
import types
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from attn_export.errors import CheckpointError, FetchError, UsageError
from attn_export.tools import fetched_weights
from attn_export.tools.fetched_weights import local

CONTENT = b"weights"
HASH = hashlib.sha256(CONTENT).hexdigest()[:8]


class EntryNotFoundError(Exception):
    """As the client's own is called."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str, str | None]]:
    """A client with one repository, which has no safetensors; what it was asked for."""
    asked: list[tuple[str, str, str | None]] = []

    def hf_hub_download(repository: str, name: str, revision: str | None = None) -> str:
        asked.append((repository, name, revision))
        if repository == "far/away":
            raise ConnectionError("no route to host")
        if name == "model.safetensors":
            raise EntryNotFoundError(name)
        (tmp_path / name).write_bytes(CONTENT)
        return str(tmp_path / name)

    client: Any = types.ModuleType("huggingface_hub")
    client.hf_hub_download = hf_hub_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    return asked


class Response(io.BytesIO):
    """What a server sends."""

    def __init__(self, address: str, length: int = len(CONTENT)) -> None:
        super().__init__(CONTENT)
        self.address, self.headers = address, {"Content-Length": str(length)}

    def geturl(self) -> str:
        return self.address


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A network that has one content at every address; which were asked for."""
    asked: list[str] = []

    def urlopen(address: str, timeout: float) -> io.BytesIO:
        assert timeout > 0
        asked.append(address)
        return Response(address)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return asked


def test_safetensors_go_first(hub: list[tuple[str, str, str | None]]) -> None:
    assert local("hub:timm/resnet18.a1_in1k").name == "pytorch_model.bin"
    assert hub == [
        ("timm/resnet18.a1_in1k", "model.safetensors", None),
        ("timm/resnet18.a1_in1k", "pytorch_model.bin", None),
    ]


def test_a_file_and_a_revision_are_taken_as_they_are(hub: list[tuple[str, str, str | None]]) -> None:
    local("hub:org/name@v1.0/folder-x.bin")
    assert hub == [("org/name", "folder-x.bin", "v1.0")]


@pytest.mark.parametrize("text", ["hub:name", "hub:a/../b", "hub:", "http://x/y.pth", "ftp://x/y.pth"])
def test_an_address_of_no_kind(text: str) -> None:
    with pytest.raises(UsageError):
        local(text)


def test_what_cannot_come_is_said(hub: list[tuple[str, str, str | None]], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FetchError, match=r"no route to host.*give the file's path") as caught:
        local("hub:far/away")
    assert caught.value.exit_code == 4
    with pytest.raises(FetchError, match=r"has no model\.safetensors; name its file"):
        local("hub:org/name/model.safetensors")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FetchError, match=r"needs the package huggingface_hub.*attn-export\[hub\]"):
        local("hub:org/name")


def test_an_address_is_fetched_once(network: list[str]) -> None:
    address = f"https://example.org/a/net-{HASH}.pth"
    first = local(address)
    assert first.read_bytes() == CONTENT
    assert first.name == f"net-{HASH}.pth"
    assert local(address) == first
    assert len(network) == 1
    assert local("https://example.org/b/net.pth").parent != first.parent
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_another_content_than_the_name_says_is_not_kept(network: list[str], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="to have the sha256 00000000"):
        local("https://example.org/net-00000000.pth")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_kept_file_that_was_altered_is_fetched_again(network: list[str]) -> None:
    address = f"https://example.org/a/net-{HASH}.pth"
    local(address).write_bytes(b"other")
    assert local(address).read_bytes() == CONTENT
    assert len(network) == 2


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (Response("https://example.org/net.pth", length=8), "7 of 8 bytes came"),
        (Response("http://example.org/net.pth"), "sends on to an address that is not https"),
    ],
    ids=["cut off", "sent on"],
)
def test_what_does_not_come_whole_or_safely_is_not_kept(
    sent: Response, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: sent)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FetchError, match=said):
        local("https://example.org/net.pth")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def urlopen(*_: object, **__: object) -> None:
        raise urllib.request.URLError("Name or service not known")  # type: ignore[attr-defined, unused-ignore]

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FetchError, match="could not be fetched"):
        local("https://example.org/net.pth")


def test_a_file_address_is_the_file(tmp_path: Path) -> None:
    assert local((tmp_path / "a net.pth").as_uri()) == tmp_path / "a net.pth"
    assert local("some/net.pth") == Path("some/net.pth")
    assert fetched_weights.FILES[0].endswith(".safetensors")
