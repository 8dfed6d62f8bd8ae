"""Signatures: made and checked by OpenSSH itself, of what was read, and by nobody who would have to be asked."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from attn_export import bundle
from attn_export.bundle import signing
from tests.test_bundle_claims import made
from tests.tools.run import run


def keygen(*words: object) -> None:
    subprocess.run(["ssh-keygen", "-q", *map(str, words)], check=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys of alice and mallory, one with a passphrase, and a file that trusts alice."""
    folder = tmp_path_factory.mktemp("keys")
    for name, phrase in (("alice", ""), ("mallory", ""), ("locked", "secret")):
        keygen("-t", "ed25519", "-N", phrase, "-f", folder / name, "-C", name)
    trust(folder / "signers", folder, "alice")
    return folder


def trust(file: Path, folder: Path, *names: str, options: str = 'namespaces="attn-export"') -> Path:
    lines = [f"{name}@example.org {options} {(folder / f'{name}.pub').read_text()}" for name in names]
    file.write_text("".join(lines))
    return file


@pytest.fixture
def signed(tmp_path: Path, keys: Path) -> Path:
    target = made(tmp_path / "two")
    done = run("sign", target, "--key", keys / "alice")
    assert done.code == 0, done.err
    assert bundle.digest(target) in done.out
    return target


def test_who_signed_is_said(signed: Path, keys: Path) -> None:
    assert bundle.read(signed).signature.read_text().startswith("-----BEGIN SSH SIGNATURE-----")
    assert sorted(os.listdir(signed.parent)) == ["two"], "nothing is left beside it"
    done = run("verify", signed, "--signers", keys / "signers")
    assert done.code == 0, done.err
    assert done.out.startswith("signed by alice@example.org for attn-export\n")
    assert run("verify", signed, "--signers", keys / "signers", "--json").json["signed_by"] == "alice@example.org"
    assert run("verify", signed).code == 0, "a signature is looked at where one asks for it"
    assert run("sign", signed, "--key", keys / "alice").code == 3, "and is not replaced unasked"


def test_git_and_ssh_would_say_the_same(signed: Path, keys: Path) -> None:
    words = ["-Y", "verify", "-n", "attn-export", "-f", keys / "signers", "-I", "alice@example.org"]
    with (signed / bundle.MANIFEST).open("rb") as content:
        done = subprocess.run(
            ["ssh-keygen", *map(str, words), "-s", str(signed / bundle.SIGNATURE)],
            stdin=content,
            capture_output=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr


def test_nobody_or_another_signed_it(signed: Path, keys: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for signers in (trust(tmp_path / "only-mallory", keys, "mallory"), tmp_path / "empty"):
        done = run("verify", signed, "--signers", signers)
        assert (done.code, done.out) == (1, "")
        assert f"is signed by nobody in {signers}" in done.err
    (signed / bundle.SIGNATURE).unlink()
    done = run("verify", signed, "--signers", keys / "signers")
    assert (done.code, done.out) == (1, "")
    assert "is not signed, and a signature by one of" in done.err


def test_a_signature_of_something_else_does_not_hold(signed: Path, keys: Path, tmp_path: Path) -> None:
    other = made(tmp_path / "other", factor=2.000001)
    shutil.copy(signed / bundle.SIGNATURE, other)
    done = run("verify", other, "--signers", keys / "signers")
    assert (done.code, done.out) == (1, "")
    assert "by alice@example.org does not hold" in done.err
    file = signed / bundle.MANIFEST
    file.write_text(file.read_text().replace('"two"', '"too"'))
    assert run("verify", signed, "--signers", keys / "signers").code == 1


def test_a_signature_for_another_purpose_does_not_hold(tmp_path: Path, keys: Path) -> None:
    target = made(tmp_path / "two")
    keygen("-Y", "sign", "-n", "git", "-f", keys / "alice", target / bundle.MANIFEST)
    done = run("verify", target, "--signers", keys / "signers")
    assert (done.code, done.out) == (1, "")
    (target / bundle.SIGNATURE).unlink()
    assert run("sign", target, "--key", keys / "alice").code == 0
    elsewhere = trust(tmp_path / "git-only", keys, "alice", options='namespaces="git"')
    assert run("verify", target, "--signers", elsewhere).code == 1
    expired = trust(tmp_path / "expired", keys, "alice", options='valid-before="20200101"')
    assert run("verify", target, "--signers", expired).code == 1


@pytest.mark.parametrize("content", ["", "no signature", "-----BEGIN SSH SIGNATURE-----\nAAAA\n", "x" * 100_000])
def test_what_is_no_signature_is_none(content: str, signed: Path, keys: Path) -> None:
    (signed / bundle.SIGNATURE).write_text(content)
    done = run("verify", signed, "--signers", keys / "signers")
    assert done.code in (1, 3), done
    assert done.out == ""
    assert len(done.err.strip().splitlines()) == 1


def test_a_bundle_that_was_altered_is_not_signed(tmp_path: Path, keys: Path) -> None:
    target = made(tmp_path / "two")
    (target / bundle.MODEL).write_bytes(b"other")
    done = run("sign", target, "--key", keys / "alice")
    assert (done.code, "was altered" in done.err) == (3, True)
    assert not (target / bundle.SIGNATURE).exists()


def test_a_key_with_a_passphrase_is_not_asked_for(tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even by a helper that the desktop brings."""
    asked = tmp_path / "asked"
    helper = tmp_path / "helper"
    helper.write_text(f"#!/bin/sh\ntouch {asked}\necho secret\n")
    helper.chmod(0o755)
    monkeypatch.setenv("SSH_ASKPASS", str(helper))
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    monkeypatch.setenv("DISPLAY", ":0")
    began = time.monotonic()
    done = run("sign", made(tmp_path / "two"), "--key", keys / "locked")
    assert done.code == 3
    assert "ssh-agent" in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert time.monotonic() - began < 10
    assert not asked.exists()
    assert sorted(os.listdir(tmp_path)) == ["helper", "two"]


def test_an_agent_signs_with_the_public_key(tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    socket = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL) as agent:
        try:
            until = time.monotonic() + 10
            while not socket.exists() and time.monotonic() < until:
                time.sleep(0.01)
            monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
            subprocess.run(["ssh-add", "-q", str(keys / "alice")], check=True, stderr=subprocess.DEVNULL)
            public = shutil.copy(keys / "alice.pub", tmp_path / "alone.pub")
            target = made(tmp_path / "two")
            done = run("sign", target, "--key", public)
            assert done.code == 0, done.err
        finally:
            agent.terminate()
    assert run("verify", target, "--signers", keys / "signers").code == 0


def test_without_ssh_keygen_the_way_out_is_said(signed: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    for words in (("verify", signed, "--signers", keys / "signers"), ("sign", signed, "--key", keys / "alice")):
        if words[0] == "sign":
            (signed / bundle.SIGNATURE).unlink()
        done = run(*words)
        assert (done.code, "openssh-client" in done.err) == (3, True), done


def test_a_program_of_that_name_where_one_stands_is_not_run(
    signed: Path, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "ssh-keygen"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    for path in (".", "", ".:/nonexistent"):
        monkeypatch.setenv("PATH", path)
        assert run("verify", signed, "--signers", keys / "signers").code == 3
    assert not (tmp_path / "ran").exists()


def test_names_that_look_like_options_are_names(tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made(Path("-two"))
    shutil.copy(keys / "alice", "-K")
    Path("-O").write_text(f"-I,-n {(keys / 'alice.pub').read_text()}")
    done = run("sign", "--key", "-K", "--", "-two")
    assert done.code == 0, done.err
    assert "attn-export verify ./-two --signers FILE" in done.out
    done = run("verify", "--signers", "-O", "--", "-two")
    assert done.code == 0, done.err
    assert done.out.startswith("signed by -I for attn-export") or done.out.startswith("signed by -I,-n for")


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "device"])
def test_a_key_or_a_list_of_signers_that_is_no_file_is_refused(kind: str, signed: Path, keys: Path) -> None:
    place = signed.parent / kind
    match kind:
        case "folder":
            place.mkdir()
        case "pipe":
            os.mkfifo(place)
        case "device":
            place = Path("/dev/zero")
    assert run("verify", signed, "--signers", place).code == 3
    (signed / bundle.SIGNATURE).unlink()
    assert run("sign", signed, "--key", place).code == 3


def test_a_signature_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = made(tmp_path / "two")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(signing.os, "link", full)
    done = run("sign", target, "--key", keys / "alice")
    assert (done.code, "No space left on device" in done.err) == (3, True)
    assert os.listdir(tmp_path) == ["two"]
    bundle.read(target)
