"""``--on`` against a real sshd: the line breaks, doors are shut, disks are full, and what is said is what was seen."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from attn_export import bundle
from attn_export.deploy_tests import backends
from attn_export.tools.emulation import cache, trees, wheels
from tests.test_bundle_claims import made
from tests.tools.devices.sshd import Device, free_port, running, tools, until, with_python
from tests.tools.run import Result, run

pytestmark = pytest.mark.slow

#: Makes the command line of somebody who has set up his ssh for a device.
Client = Callable[..., Callable[..., Result]]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """This user's cache, with an environment in it: what it would hold is installed beside the device's Python."""
    folder = tmp_path_factory.mktemp("host")
    minor = ".".join(platform.python_version_tuple()[:2])
    glibc = int(platform.libc_ver()[1].split(".")[1])
    asked = trees.asked(wheels.requirements([backends.DEFAULT]), "x86_64", minor, glibc=glibc)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        cache.kept("wheels", asked, lambda into: (into / "of_this_test.py").write_text("") and None)
        yield folder


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    folder = tmp_path_factory.mktemp("device")
    with running(Device(folder, folder / "home", with_python())) as one:
        yield one


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch, host: Path) -> Client:
    def of(one: Device, **settings: str) -> Callable[..., Result]:
        monkeypatch.setenv("PATH", one.client(**settings))

        def verify(*words: object, patience: float = 20) -> Result:
            return run("verify", *words, "--on", one.address, "--patience", patience)

        return verify

    return of


def runs(one: Path) -> list[dict[str, object]]:
    return list(bundle.report(bundle.read(one))["runs"])


def test_it_ends_as_it_ends_there_and_is_kept_as_a_run(device: Device, client: Client, tmp_path: Path) -> None:
    verify, good = client(device), made(tmp_path / "it's $(touch PWNED) `x`")
    came = verify(good)
    assert came.code == 0, came
    assert came.out.startswith("onnxruntime: parity holds on ONNX Runtime"), came.out
    assert "its digest is now sha256:" in came.out
    (kept,) = runs(good)
    environment = kept["environment"]
    assert isinstance(environment, dict)
    assert environment["device"]["host"] == platform.node()
    assert environment["device"]["address"] == device.address
    assert environment["device"]["libc"] == " 2.".join(["glibc", platform.libc_ver()[1].split(".")[1]])
    # What was added to it here is not brought there again, and takes the place of what was known.
    again = verify(good, "--json", "--store", tmp_path / "store")
    assert again.code == 0
    assert again.json["bundle"] == str(good)
    assert again.json["runs"][0]["parity"]["ok"] is True
    assert again.json["on"]["host"] == platform.node()
    assert again.json["digest_with_run"] == bundle.read(good).digest
    assert len(runs(good)) == 1
    (file,) = (tmp_path / "store" / "runs").rglob("*.json")
    assert json.loads(file.read_text())["machine"]["name"] == platform.node()
    assert len(list((device.root / "bundle").iterdir())) == 1
    assert device.jobs() == []
    assert not list(device.home.rglob("PWNED"))
    wrong = made(tmp_path / "wrong", factor=2.5)
    both = verify(good, wrong)
    assert (both.code, "failed verification on onnxruntime" in both.err) == (1, True), both
    assert f"{wrong}:" in both.out
    assert [run["parity"]["ok"] for one in (good, wrong) for run in runs(one)] == [True, False]  # type: ignore[index]


def test_what_is_held_to_its_digest_stays_as_it_is(device: Device, client: Client, tmp_path: Path) -> None:
    one = made(tmp_path / "one")
    digest = bundle.read(one).digest
    came = client(device)(one, "--expect", digest)
    assert (came.code, "not kept" in came.out) == (0, True), came
    assert bundle.read(one).digest == digest
    assert client(device)(one, "--expect", "0" * 64).code == 1
    loose = client(device)(one, "--tolerance", "3")
    assert (loose.code, "not kept" in loose.out) == (0, True), loose
    assert bundle.read(one).digest == digest


def test_what_is_measured_there_is_kept_as_well(device: Device, client: Client, tmp_path: Path) -> None:
    client(device)
    one, quick = made(tmp_path / "one"), ("--duration", "0", "--iterations", "3", "--warmup", "0")
    there = ("--on", device.address, *quick)
    came = run("bench", one, *there, "--budget", "p50<=0.00000001ms", "-v")
    assert (came.code, "kept in" in came.out, f"{one}: p50 " in came.out) == (1, True, True), came
    assert "latency of" in came.err
    (kept,) = runs(one)
    assert set(kept) >= {"latency", "footprint", "conditions", "environment"}
    digest = bundle.read(one).digest
    words = (f"{one}#model@onnxruntime", *there, "--baseline", one / bundle.REPORT, "--max-regression", "1e9%")
    again = run("bench", *words, "--no-keep", "--json")
    assert again.code == 0, again
    assert again.json["runs"][0]["bundle"] == str(one)
    assert again.json["budgets"][0]["verdict"] == "passed"
    assert again.json["on"]["address"] == device.address
    assert bundle.read(one).digest == digest


class Held:
    """Somebody else's run on the device, which ends when the block does."""

    def __init__(self, device: Device) -> None:
        device.root.mkdir(parents=True, exist_ok=True)
        self.file = (device.root / "lock").open("w")

    def __enter__(self) -> Held:
        fcntl.flock(self.file, fcntl.LOCK_EX)
        self.file.write("bench of other for her@desk\n")
        self.file.flush()
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


def meanwhile(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_three_dropped_lines_and_somebody_elses_run_are_waited_for(
    device: Device, client: Client, tmp_path: Path
) -> None:
    one, seen = made(tmp_path / "one"), []

    def work() -> None:
        with Held(device):
            begun.set()
            until(device.waits)
            for _ in range(3):
                until(lambda: device.blocks(1) and device.sessions())
                seen.append(device.sessions())
                device.drop()
                until(lambda: not set(device.sessions()) & set(seen[-1]))
            until(lambda: device.blocks(2))  # the call after that in which it was said that it waits

    begun = threading.Event()
    thread = meanwhile(work)
    begun.wait()
    came = client(device)(one)
    thread.join()
    assert came.code == 0, came
    assert len(seen) == 3
    assert len({one for numbers in seen for one in numbers}) == sum(map(len, seen)) >= 3, "no line twice"
    assert (came.err.count("lost 127.0.0.1 ("), came.err.count("127.0.0.1 is back")) == (1, 1), came.err
    assert "is in use by bench of other for her@desk; waiting" in came.err
    assert len(runs(one)) == 1


def test_a_device_that_does_not_come_back_proves_nothing(client: Client, tmp_path: Path) -> None:
    with running(Device(tmp_path / "d", tmp_path / "home", with_python())) as device, Held(device):

        def stop() -> None:
            until(lambda: device.blocks(1))
            device.stop()

        thread = meanwhile(stop)
        came = client(device)(made(tmp_path / "one"), patience=0.5)
        thread.join()
        assert came.code == 5, came
        assert "did not come back within 0.5 s" in came.err
        for job in device.jobs():  # what was left there waits for the lock that is held
            os.killpg(int((job / "started").read_text()), signal.SIGKILL)


def test_a_run_that_is_killed_says_so(device: Device, client: Client, tmp_path: Path) -> None:
    def kill() -> None:
        until(device.waits)
        (job,) = device.jobs()
        os.killpg(int((job / "started").read_text()), signal.SIGKILL)

    with Held(device):
        thread = meanwhile(kill)
        came = client(device)(made(tmp_path / "one"))
        thread.join()
    assert (came.code, "ended without a word" in came.err) == (5, True), came
    assert device.jobs() == []


def test_who_interrupts_stops_the_run_there(device: Device, client: Client, tmp_path: Path) -> None:
    client(device)
    words = ["verify", str(made(tmp_path / "one")), "--on", device.address]
    with Held(device):
        child = subprocess.Popen([sys.executable, "-m", "attn_export", *words], stderr=subprocess.PIPE, text=True)
        until(lambda: device.blocks(1))
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=30)
        assert (child.returncode, device.jobs()) == (130, []), err


SHUT = [
    ({"known": "nothing"}, "its host key is not in your known_hosts"),
    ({"key": "stranger"}, "it refuses the user or the key: `ssh-copy-id`"),
]


@pytest.mark.parametrize(("settings", "said"), SHUT, ids=["host key", "key"])
def test_a_shut_door(device: Device, client: Client, tmp_path: Path, settings: dict[str, str], said: str) -> None:
    came = client(device, **settings)(made(tmp_path / "one"))
    assert (came.code, said in came.err) == (3, True), came
    assert "cannot be reached" in came.err


def test_nobody_there(device: Device, client: Client, tmp_path: Path) -> None:
    one = made(tmp_path / "one")
    client(device, first="-o ConnectTimeout=1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for address, said in (
            (f"127.0.0.1:{free_port()}", "nothing listens there"),
            (f"127.0.0.1:{silent.getsockname()[1]}", "it does not answer as an SSH server"),
            ("no-such-host.invalid", "nobody knows a machine of that name"),
        ):
            came = run("verify", one, "--on", f"ssh://{address}", "--json")
            assert (came.code, said in came.err) == (3, True), came
            assert came.json["kind"] == "DeviceError"


DEVICES = {
    "noise": ({}, "ForceCommand echo welcome; echo warm >&2; eval \"$SSH_ORIGINAL_COMMAND\"; echo bye", 0, ""),
    "no python": ({"python3": ""}, "", 4, "has no Python that can run this: expected 3.10 to 3.14, found none"),
    "no room": ({"df": "echo x; echo x 1 1 1000 1 x"}, "", 3, "MB are needed; make room there"),
    "full meanwhile": ({"tar": "cat >/dev/null; echo tar: No space left on device >&2; exit 2"}, "", 3, "is full"),
    "killed": ({"python3": 'case "$*" in *"-m attn_export"*) kill -9 $$;; esac; PYTHON'}, "", 5, "killed"),
    "no flock": ({"flock": ""}, "", 4, "lacks flock"),
}  # fmt: skip


@pytest.mark.parametrize("name", DEVICES)
def test_devices_of_every_kind(name: str, client: Client, tmp_path: Path) -> None:
    own, more, code, said = DEVICES[name]
    python = f'exec {Path(sys.executable).parent / "python3"} "$@"'
    scripts = {key: text.replace("PYTHON", python) for key, text in {"python3": "PYTHON", **own}.items()}
    path = tools(tmp_path / "bin", **scripts)
    with running(Device(tmp_path / "d", tmp_path / "home", path, more=more)) as device:
        came = client(device)(made(tmp_path / "one"))
    assert (came.code, said in came.err) == (code, True), came
    assert not list(device.root.glob("*/.new.*"))
