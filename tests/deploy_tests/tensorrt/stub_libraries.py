"""Empty stand-ins for NVIDIA's libraries, so that the real bindings import, and the signatures they then show."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.deploy_tests.tensorrt.wheels import Wheel, unpacked

_NEEDED = re.compile(r"\(NEEDED\).*\[(lib(?:nv|tensorrt)[^\]]*)\]")
_SYMBOL = re.compile(r"\bU (\w*(?:_INTERNAL|PluginRegistry|ParserVersion|InferPlugins))$", re.MULTILINE)


def signatures(wheel: Wheel, work: Path) -> dict[str, Any]:
    """Compile stand-ins for what a wheel's bindings link to, import them, and read what they declare."""
    folder = unpacked(wheel)
    (bindings,) = (folder / wheel.module).glob("tensorrt*.so")
    libraries = compile_for(bindings, work)
    script = Path(__file__).with_name("dump_signatures.py")
    command = [sys.executable, "-I", str(script), str(folder), wheel.module, *map(str, libraries)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def compile_for(bindings: Path, work: Path) -> list[Path]:
    needed = _NEEDED.findall(_say("readelf", "-d", str(bindings)))
    symbols = _SYMBOL.findall(_say("nm", "-D", "--undefined-only", str(bindings)))
    assert needed, f"{bindings} links to none of NVIDIA's libraries"
    assert symbols, f"{bindings} imports none of NVIDIA's functions"
    work.mkdir(parents=True, exist_ok=True)
    source = work / "stub.c"
    source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in symbols))
    made = []
    for index, name in enumerate(needed):
        # One library holds every symbol, the others only have to exist by name.
        inputs = [str(source)] if index == 0 else ["-x", "c", "/dev/null"]
        _say("gcc", "-shared", "-fPIC", *inputs, f"-Wl,-soname,{name}", "-o", str(work / name))
        made.append(work / name)
    return made


def _say(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
