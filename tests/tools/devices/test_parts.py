"""The parts of ``--on`` by themselves: addresses, what a device says of itself, frames, and parcels."""

from __future__ import annotations

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from attn_export import bundle
from attn_export.errors import BackendMissingError, BundleError, DeviceError, UsageError
from attn_export.pipeline.report import keep_runs, run_device
from attn_export.tools.devices import address, parcel, probe, session
from attn_export.tools.devices.connection import Connection, LostError
from attn_export.tools.devices.job import Outcome, died
from attn_export.tools.emulation import foreign
from tests.deploy_tests.test_conformance import write
from tests.tools.run import run


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("ssh://board", ["--", "board"]),
        ("ssh://pi@board.local:2222/", ["-l", "pi", "-p", "2222", "--", "board.local"]),
        ("ssh://me_2.x@10.0.0.7", ["-l", "me_2.x", "--", "10.0.0.7"]),
        ("ssh://a@[fe80::1%eth0]:22", ["-l", "a", "-p", "22", "--", "fe80::1%eth0"]),
    ],
)
def test_an_address_is_words_of_ssh(typed: str, words: list[str]) -> None:
    found = address.parse(typed)
    assert found.words() == words
    assert address.parse(str(found)) == found


@pytest.mark.parametrize(
    "typed",
    [
        "board", "ssh://", "ssh://-oProxyCommand=touch x", "ssh://-l@board", "ssh://a b", "ssh://a;b", "ssh://a:0",
        "ssh://a:65536", "ssh://u:secret@a", "ssh://a/path", "ssh://a\n", "ssh://é", "adb:1", "ssh://u@-b", "ssh://[-]",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_before_anything_is_started(typed: str) -> None:
    with pytest.raises(UsageError, match="expected ssh://user@host"):
        address.parse(typed)


def said(*lines: str) -> probe.Device:
    usual = {"root": "/h/.cache/attn-export", "free": "1000", "host": "board", "machine": "aarch64"}
    parts = (line.partition("=") for line in lines)
    return probe.described([*usual.items(), *((name, value) for name, _, value in parts)])


def python(version: str, abi: str = "aarch64-linux-gnu", *, bits: int = 64, more: str = "") -> str:
    """What a device says of one Python."""
    major, minor, _ = version.split(".")
    libc = "-" if abi.endswith("musl") else "glibc-2.36"
    return f"python={version} {bits} cpython-{major}{minor}{more}-{abi} {libc} /usr/bin/python{major}.{minor}"


P311, P313 = python("3.11.2"), python("3.13.2")
MUSL, P312_MUSL = "musl=/lib/ld-musl-aarch64.so.1", python("3.12.1", "aarch64-linux-musl")


def test_a_device_is_what_it_says() -> None:
    one = said(P311, "cores=4", "time=7", "governor=ondemand", "heat=41000", "heat=52500", "heat=x", "sensor=ina3221")
    assert (one.host, one.free, one.cores, one.governor, one.celsius) == ("board", 1024000, 4, "ondemand", 52.5)
    assert (one.libc, one.sensors, one.root) == ("glibc 2.36", ("ina3221",), "/h/.cache/attn-export")
    assert (one.python().minor, one.python().glibc, one.python().path) == ("3.11", 36, "/usr/bin/python3.11")
    assert probe.described([]).free == 0


@pytest.mark.parametrize(
    ("lines", "minor"),
    [
        ([P311, P313], "3.11"),
        ([python("3.8.10"), P311, P313], "3.13"),
        ([python("3.13.1", more="t"), P311], "3.11"),
        ([python("3.15.0"), P311], "3.11"),
        ([P312_MUSL, MUSL, P311], "3.11"),
    ],
)  # fmt: skip
def test_the_usual_python_if_it_can_else_the_newest(lines: list[str], minor: str) -> None:
    assert said(*lines).python().minor == minor


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "found none; install python3"),
        ([python("3.8.10")], r"found 3\.8\.10 \(/usr/bin/python3\.8"),
        ([MUSL, P312_MUSL], "musl"),
        (["musl=/lib/ld-musl-armhf.so.1"], "musl"),
        ([python("3.11.2", "arm-linux-gnueabihf", bits=32)], "aarch64, 32-bit"),
        (["lacks=flock", P311], "lacks flock"),
    ],
)  # fmt: skip
def test_what_cannot_carry_a_runtime_is_missing_one(lines: list[str], why: str) -> None:
    with pytest.raises(BackendMissingError, match=why):
        said(*lines).python()


def test_32_bit_arm_and_rarer_processors_are_named() -> None:
    for machine in ("armv7l", "riscv64"):
        with pytest.raises(BackendMissingError, match=f"board is {machine}: NumPy and the runtime have wheels"):
            replace(said(P311), machine=machine).python()


FAKE = """#!/bin/sh
for last in "$@"; do :; done
case "$*" in *" -O "*) exit 0 ;; esac
{}
"""


def line(folder: Path, monkeypatch: pytest.MonkeyPatch, act: str, told: list[str] | None = None) -> Connection:
    """A connection whose ``ssh`` does what is given."""
    (folder / "ssh").write_text(FAKE.format(act))
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    say = (told if told is not None else []).append
    return Connection(address.parse("ssh://board"), patience=0.3, say=say)


def test_what_stands_in_the_frame_is_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = line(tmp_path, monkeypatch, 'echo welcome; echo "@@attn-export begin 0"; eval "$last"; echo bye; exit 255')
    for word in ("plain", "it's", "$(echo no)", "a b;c", "-x", ""):
        reply = noisy.call('printf "<%s>" "$1"; echo; echo why >&2; exit 7', word)
        assert (reply.code, reply.text, reply.err) == (7, f"<{word}>", "why\n")
    assert noisy.call("printf 'a=1\\nno\\nb= x=y \\n'").fields() == [("a", "1"), ("b", "x=y")]
    assert noisy.call("cat", feed=lambda pipe: pipe.write(b"\x00\xff\n") and None).out == b"\x00\xff\n"
    noisy.close()


@pytest.mark.parametrize(
    ("act", "why"),
    [
        ("echo Host key verification failed. >&2; exit 255", "compare the fingerprint"),
        ("echo '@@@@'; echo '@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @' >&2; exit 255", "ssh-keygen -R"),
        ("echo banner >&2; echo 'x: Permission denied (publickey).' >&2; exit 255", "ssh-copy-id"),
        ("echo 'ssh: connect to host x port 22: No route to host' >&2; exit 255", "does not answer"),
        ("echo odd >&2; exit 255", "try it with ssh itself \\(ssh: odd\\)"),
        ("exit 3", "ssh ended with 3 and no answer"),
        ('eval "$last" | head -n 2; kill -9 $$', "no answer"),
    ],
)
def test_without_a_frame_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str, why: str) -> None:
    with pytest.raises(DeviceError, match=f"ssh://board cannot be reached: .*{why}"):
        line(tmp_path, monkeypatch, act).call("echo; echo x; sleep 0.2")


def test_a_device_that_was_there_is_waited_for_and_then_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    broken, count = tmp_path / "broken", tmp_path / "count"
    often = f'echo x >>{count}; [ "$(wc -l <{count})" -gt 2 ] || exit 255; rm {broken}'
    act = f'[ -e {broken} ] && {{ {often}; }}; eval "$last"'
    one = line(tmp_path, monkeypatch, act, told)
    one.patience = 30
    assert one.call("true").code == 0
    broken.touch()
    assert one.call("true").code == 0
    assert [text.split(" (")[0] for text in told] == ["lost board", "board is back"]
    broken.touch()
    count.write_text("")
    one.patience = 0.01
    with pytest.raises(LostError):
        one.call("true")
    one.patience = 30
    with pytest.raises(LostError, match=r"no answer within 0\.1 s"):
        one.once("sleep 9", seconds=0.1)


def test_a_first_call_that_hangs_is_made_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    hung = tmp_path / "hung"
    monkeypatch.setattr(foreign, "LOOK", 0.05)
    once = line(tmp_path, monkeypatch, f'[ -e {hung} ] || {{ touch {hung}; sleep 9; }}; eval "$last"', told)
    assert once.call("echo x", seconds=1).text == "x"
    assert [text.split(" (")[0] for text in told] == ["lost board", "board is back"]
    with pytest.raises(DeviceError, match="no answer within"):
        line(tmp_path, monkeypatch, "sleep 9").call("true", seconds=0.2)


def test_ssh_is_told_to_ask_nobody_and_to_believe_no_stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line(tmp_path, monkeypatch, f'printf "%s\\n" "$@" >{tmp_path}/words; eval "$last"').call("true")
    words = (tmp_path / "words").read_text()
    assert "BatchMode=yes" in words
    assert "StrictHostKeyChecking" not in words
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    with pytest.raises(BackendMissingError, match="OpenSSH client"):
        Connection(address.parse("ssh://board"), patience=1, say=print)


def test_a_bundle_goes_as_what_a_device_needs_and_under_one_name(tmp_path: Path) -> None:
    one = write(tmp_path / "one")
    whole = bundle.read(one)
    packed = parcel.of_bundle(whole, tmp_path / "s")
    stream = io.BytesIO()
    seen: list[int] = []
    packed.write(stream, seen.append)
    with tarfile.open(fileobj=io.BytesIO(stream.getvalue())) as archive:
        assert archive.getnames()[-1] == parcel.LAST
        archive.extractall(tmp_path / "there", filter="data")
    (tmp_path / "there" / parcel.LAST).unlink()
    there = bundle.read(tmp_path / "there")
    assert there.digest == f"sha256:{packed.key}"
    assert [case.name for case in there.cases] == [case.name for case in whole.cases]
    assert seen[-1] == packed.size
    keep_runs.keep_runs(whole, [{"backend": "onnxruntime", "environment": {"device": {"host": "board"}}}])
    again = bundle.read(one)
    assert again.digest != whole.digest
    assert parcel.of_bundle(again, tmp_path / "t").key == packed.key


def test_a_tree_is_named_by_what_is_in_it(tmp_path: Path) -> None:
    def tree(name: str, text: str) -> parcel.Parcel:
        (tmp_path / name / "p" / "__pycache__").mkdir(parents=True)
        (tmp_path / name / "p" / "a.py").write_text(text)
        (tmp_path / name / "p" / "__pycache__" / "a.pyc").write_text(name)
        return parcel.of_tree(tmp_path / name, "it")

    one, same, other = tree("one", "x"), tree("same", "x"), tree("other", "y")
    assert one.key == same.key != other.key
    assert [name for name, _ in one.files] == ["p/a.py"]
    (tmp_path / "one.sha256").write_text("0" * 64 + " " + (tmp_path / "one.sha256").read_text().split()[1])
    assert parcel.of_tree(tmp_path / "one", "it").key == "0" * 64, "read, and not computed again"
    (tmp_path / "one.sha256").write_text("0" * 64 + " 1-1")
    assert parcel.of_tree(tmp_path / "one", "it").key == same.key


def test_runs_of_one_device_take_the_place_of_its_own(tmp_path: Path) -> None:
    def ran(host: str, **part: object) -> dict[str, object]:
        known = {"device": {"host": host, "address": f"ssh://{host}"}}
        return {"backend": "onnxruntime", "artifact": "model", "environment": known, **part}

    one = write(tmp_path / "one")
    keep_runs.keep_runs(bundle.read(one), [{"backend": "onnxruntime", "environment": {"cores": 2}}])
    for host, missing in (("a", "1"), ("b", "2"), ("a", "3")):
        keep_runs.keep_runs(bundle.read(one), [ran(host, missing=missing)])
    kept = bundle.report(bundle.read(one))["runs"]
    assert [(run_device.host(run), run.get("missing")) for run in kept] == [("", None), ("b", "2"), ("a", "3")]
    with pytest.raises(BundleError):
        keep_runs.keep_runs(bundle.read(one), [{"backend": 7}])


def test_what_a_device_gave_is_believed_where_it_is_json() -> None:
    def answer(code: int, result: str, err: str = "") -> session.Answer:
        return session.Answer(Outcome(code, "", err, result), said(P311), said(P311).python(), 0.0, 0)

    assert answer(0, '{"a": 1}').content() == {"a": 1}
    assert answer(2, "").content() == {}
    for wrong in ("[1]", "{", "NaN"):
        with pytest.raises(DeviceError, match="board gave is no"):
            answer(0, wrong).content()
    machine = answer(0, "").machine(address.parse("ssh://board"))
    assert (machine["host"], machine["libc"], machine["began"]) == ("board", "glibc 2.36", "1970-01-01T00:00:00Z")
    assert died(Outcome(5, "", "", ""), said()) is None
    for code, how in ((137, "killed, often for want of memory"), (139, "a crash"), (127, "exit code 127: gone")):
        assert how in str(died(Outcome(code, "", "x\ngone\n", ""), said()))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--on", "board"), "expected ssh://user@host"),
        (("--on", "ssh://b", "--emulate", "aarch64"), "two machines"),
        (("--on", "ssh://b", "--fresh", "3"), "--fresh evaluates with torch"),
        (("--on", "ssh://b", "--data", "x"), "--data is not brought"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_asked(tmp_path: Path, words: tuple[str, ...], why: str) -> None:
    came = run("verify", tmp_path / "none", *words)
    assert (came.code, why in came.err) == (2, True), came
