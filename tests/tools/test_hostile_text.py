"""Names from outside in every place that shows them: what they hold is shown, and nothing of it acts."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from attn_export import bundle
from attn_export.pipeline.report.formats import junit, markdown, sarif
from attn_export.pipeline.report.page import render
from attn_export.tools import console
from attn_export.tools.progress import TerminalProgress
from attn_export.untrusted import text
from tests.deploy_tests.test_conformance import write
from tests.pipeline.reports import manifest, report
from tests.pipeline.test_report import Page
from tests.tools.run import run

ROOT = Path(__file__).parents[2]
#: What a terminal, a browser, a parser or a reader's eye would act on.
HIDDEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\ufffe\uffff]"
)
PARTS = (
    "[/]", "[red]", "[link=https://x.example]", ":smile:", "\x1b[31m", "\x1b]0;t\x07", "\x9b2J", "\r", "\n", "\u202e",
    "\u200b", "\U000e0041", "<script>", "</svg>", "<!--", "]]>", "&#60;", '"', "'", " onload=x", "|", "\\", "`", "```",
    "\n```\n", "\n# x\n", "[a](https://x.example)", "![a](x)", "<https://x.example>", "www.x.example", "@all", "#1",
    "$(touch PWNED)", "; touch PWNED", "`id`", "-rf", "--", "{{ 7*7 }}", "{% raw %}", "%00", "\x00", "\ud800", "ünï",
    "javascript:x", "1. ", "- ", "  ", "\t", "$x$", "~~", "**", "../", ":7", ":99999999999999",
)  # fmt: skip
#: Every name begins so, and nothing else holds it: so its places can be counted.
NAME = "Zq7"
names = st.lists(st.sampled_from(PARTS) | st.text(max_size=6), min_size=1, max_size=6).map(lambda p: NAME + "".join(p))
ALL = NAME + "".join(PARTS)
#: What protobuf takes of it.
INNER = ALL.replace("\ud800", "").replace("\x00", "")
hostile = settings(max_examples=60, deadline=None)


def content(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A manifest and a failing report that hold ``name`` wherever a name or a sentence from outside can stand."""
    m, r = manifest(name=name), report(case=name, good=False)
    m |= {"warnings": [name], "command": [name, "--fuse", "-o", name]}
    m["subject"]["weights"] = name
    m["environment"] = {name: name, "libraries": {name: name}}
    m["files"] = {name: name}
    for stage in m["stages"]:
        stage["name"] = name
    m["costs"]["case"] = name
    m["costs"]["nodes"][-1] |= {"name": name, "source": f"{name}:7", "module": name}
    m["fusion"]["sites"] = [{**site, "name": name, "pattern": name} for site in m["fusion"]["sites"]]
    m["fusion"]["not_fused"] = [{"site": name, "kind": name, "reason": name, "remedy": name}]
    fate = {
        "name": name,
        "kind": name,
        "margin": 0.0,
        "caught_by_audit": name,
        "reason": name,
        "normalized_error": None,
        "verdict": "survived",
    }
    m["mutation"] = {"mode": "fast", "possible": 1, "killed": 1, "survived": 1, "mutants": [fate], "vacuous": [name]}
    one = r["runs"][0]
    one |= {"backend": name, "environment": {name: name}, "preflight": [{"found": name, "remedy": name}]}
    one["parity"]["comparisons"][0]["failure"] = name
    one["budgets"] = [{**item, "text": name} for item in one["budgets"]]
    for row in one["profile"]["rows"]:
        row |= {"name": name, "op": name, "module": name, "limited_by": name}
    r["runs"][1] |= {"backend": name, "missing": name}
    return m, r


@pytest.fixture(scope="module")
def plain() -> list[tuple[str, list[str]]]:
    """The elements and attributes of the page where every name is harmless."""
    return elements(render(*content(NAME), NAME))


def elements(source: str) -> list[tuple[str, list[str]]]:
    return [(tag, sorted(attributes)) for tag, attributes in Page(source).tags]


def test_what_cannot_be_seen_is_what_unicode_says() -> None:
    classes = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    for number in range(0x110000):
        letter = chr(number)
        hidden = unicodedata.category(letter) in classes and letter not in "\t\n"
        if hidden or unicodedata.category(letter) not in ("Cn", *classes):
            assert (text.printable(letter) != letter) is hidden, hex(number)


@pytest.mark.slow
@hostile
@given(names)
@example(ALL)
@example(f"{NAME}<b>&\"'")
def test_the_page_has_no_element_that_the_template_did_not_make(plain: list[tuple[str, list[str]]], name: str) -> None:
    page = render(*content(name), name)
    assert elements(page) == plain
    assert not HIDDEN.search(page)
    assert text.line(name) in Page(page).text


@hostile
@given(names)
@example(ALL)
def test_junit_parses_and_says_the_names(name: str) -> None:
    source = junit(*content(name))
    assert not HIDDEN.search(source)
    top = ET.fromstring(source)
    assert top.attrib["name"] == text.line(name)
    assert {item.tag for item in top.iter()} <= {
        "testsuites", "testsuite", "testcase", "failure", "error", "skipped", "system-out"
    }  # fmt: skip
    assert len(top.findall(".//testcase")) == len(ET.fromstring(junit(*content(NAME))).findall(".//testcase"))


@hostile
@given(names)
@example(ALL)
@example("javascript:alert(1)")
@example("/a b\n/%41")
def test_sarif_is_ascii_and_points_at_files(name: str) -> None:
    source = sarif(*content(name))
    assert source.isascii()
    assert not HIDDEN.search(source)
    results = json.loads(source)["runs"][0]["results"]
    assert results
    for result in results:
        assert not re.search(r"\[[^\]]*\]\(", result["message"]["text"]), "a link in SARIF's messages"
        for place in result.get("locations", []):
            if "physicalLocation" in place:
                uri = place["physicalLocation"]["artifactLocation"]["uri"]
                assert re.fullmatch(r"[\w/.~%:-]+", uri, re.ASCII), uri
                assert not re.search(r"%(?![0-9A-F]{2})", uri), uri
                assert urlsplit(uri).scheme in ("", "file"), uri
                assert 0 < place["physicalLocation"]["region"]["startLine"] < 2**31


def letters(tokens: list[Token]) -> str:
    """All that is read, without spaces."""
    return "".join("".join(token.content for block in tokens for token in block.children or ()).split())


def rows(tokens: list[Token]) -> list[int]:
    """Cells of each row of each table."""
    found: list[int] = []
    for token in tokens:
        if token.type == "tr_open":
            found.append(0)
        elif token.type in ("td_open", "th_open"):
            found[-1] += 1
    return found


@hostile
@given(names)
@example(ALL)
@example(f"{NAME}\\|\\\\|`|@|`")
def test_markdown_holds_no_markup_but_ours(name: str) -> None:
    source = markdown(*content(name), name)
    assert not HIDDEN.search(source)
    reader = MarkdownIt("commonmark").enable("table")
    tokens, usual = (reader.parse(words) for words in (source, markdown(*content(NAME), NAME)))
    assert [token.type for token in tokens] == [token.type for token in usual], "blocks, lists, tables, fences"
    assert rows(tokens) == rows(usual)
    for block, harmless in zip(tokens, usual, strict=True):
        if block.type == "html_block":
            assert block.content == harmless.content
        for token in block.children or ():
            assert token.type in ("text", "text_special", "code_inline"), token
            if token.type != "code_inline":
                assert not re.search(r"@|://|www\.", token.content), "what readers make a link or a call of"
    said = "".join(text.line(name).split())
    assert letters(tokens).count(said) == letters(usual).count(NAME), "each name is said, whole and as it is"
    (fence,) = (token for token in tokens if token.type == "fence")
    check_commands(fence.content, name)


def check_commands(lines: str, name: str) -> None:
    """The three commands of a report: each is the words it is meant to be."""
    shown = text.everywhere(re.sub(r"[\n\t]", lambda m: f"\\x{ord(m[0]):02x}", name))
    made, verify, bench = (shlex.split(line) for line in lines.strip().split("\n"))
    assert made == ["attn-export", shown, "--fuse", "-o", shown]
    as_path = shlex.split(text.word(str(PurePath(name))))
    assert verify == ["attn-export", "verify", *as_path]
    assert bench == ["attn-export", "bench", *as_path]


@pytest.mark.parametrize("name", ["x; touch PWNED", "-rf", "$(id)", "a b", "x\ny", "--json", "'; id; '", "!!", "~root"])
def test_shell_lines_are_one_command(name: str) -> None:
    line = text.command("attn-export", "verify", PurePath(name))
    came = subprocess.run(
        ["bash", "-c", f"attn-export() {{ printf '%s\\0' \"$@\"; }}; {line}"], capture_output=True, check=True
    ).stdout
    _, *words = came.decode().split("\0")[:-1]
    assert words == [text.line(name.replace("\n", "\\x0a")) if not name.startswith("-") else f"./{name}"]


@hostile
@given(names)
@example(ALL)
def test_a_line_on_a_terminal_is_one_line(name: str) -> None:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        console.say(f"refused: {name}", f"  {name}")
        console.emit({"name": name, name: 1})
    first, second, third = out.getvalue().removesuffix("\n").split("\n")
    assert first == f"refused: {text.line(name)}"
    assert second.startswith(f"  {NAME}")
    assert json.loads(third) == {"schema_version": console.SCHEMA_VERSION, "name": name, name: 1}
    assert not HIDDEN.search(out.getvalue())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_stream_that_lacks_a_letter_ends_nothing(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    console.say("3 → 2 nodes ünï \udc80")
    sys.stdout.flush()
    assert raw.getvalue().decode(encoding).startswith("3 ")


@pytest.mark.parametrize("name", [*PARTS, ALL])
@pytest.mark.parametrize("terminal", [False, True])
def test_progress_shows_names_as_they_are(name: str, terminal: bool) -> None:
    progress = TerminalProgress(1)
    out = io.StringIO()
    progress.console = Console(file=out, force_terminal=terminal, highlight=False, width=1000)
    with progress.stage(f"latency of {name}"):
        progress.detail(f"{name} nodes")
    progress.warn(name)
    came = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", out.getvalue()) if terminal else out.getvalue()
    assert not HIDDEN.search(came.replace("\r", ""))
    assert f"warning: {text.line(name)}" in came
    assert f"{text.line(name)} nodes" in came


def test_tables_show_names_as_they_are() -> None:
    assert console.cell("[/] [red]x[/red] :smile:\x1b[31m").plain == "[/] [red]x[/red] :smile:\\x1b[31m"


#: Who may print besides ``console``: the program's ends, generators of our own pages, benchmarks, a worker's answer.
PRINTERS = {"tools/console.py", "tools/cli.py", "tools/ending.py", "tools/entry.py", "tools/progress.py"}
#: And who writes to a stream by itself: the worker of a sweep answers on one, and logs to the other.
WRITERS = {"pipeline/sweep/worker.py"}
#: Folders whose code may be called from Python, and must be silent.
SILENT = ("mechanisms", "reparam", "export", "deploy_tests", "pipeline", "tools")


def test_nothing_else_prints() -> None:
    for file in (file for folder in SILENT for file in (ROOT / folder).rglob("*.py")):
        name = file.relative_to(ROOT).as_posix()
        if name in PRINTERS | WRITERS:
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        # A child answers on its standard output, below the line that makes it one.
        own = [node for node in tree.body if not (isinstance(node, ast.If) and "__main__" in ast.unparse(node.test))]
        for node in (inner for top in own for inner in ast.walk(top)):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("print", "typer.echo", "typer.secho", "Console", "sys.stdout.write"), (
                    f"{name}:{node.lineno} prints by itself; say it with attn_export.tools.console"
                )


def graph(path: Path, last: onnx.NodeProto, *more: onnx.TensorProto) -> None:
    """A convolution with a batch norm and ``last``, every name of which is hostile."""
    rng = np.random.default_rng(0)
    sizes = {"w": (3, 3, 1, 1), "b": (3,), "s": (3,), "o": (3,), "m": (3,), "v": (3,), "unused": (1,)}
    weights = [
        numpy_helper.from_array(rng.uniform(0.5, 2, size).astype(np.float32), INNER + name)
        for name, size in sizes.items()
    ]
    nodes = [
        helper.make_node("Conv", [INNER + "x", INNER + "w", INNER + "b"], [INNER + "c"], name=INNER + "conv"),
        helper.make_node("BatchNormalization", [INNER + name for name in "csomv"], [INNER + "n"], name=INNER + "norm"),
        last,
    ]
    ports = [helper.make_tensor_value_info(INNER + name, TensorProto.FLOAT, [1, 3, 4, 4]) for name in "xy"]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("n[/]\x1b[31m", 1)]
    made = helper.make_graph(nodes, "n\x1b[31m", ports[:1], ports[1:], [*weights, *more])
    onnx.save(helper.make_model(made, opset_imports=opsets, ir_version=10), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a name that acts in a shell and in markup, with three graphs: one runs, one is odd, one breaks."""
    place = tmp_path_factory.mktemp("hostile") / "x; touch PWNED [red] \x1b[31m @all"
    place.mkdir()
    y, n = [INNER + "y"], INNER + "n"
    graph(place / "fine.onnx", helper.make_node("Relu", [n], y, name=INNER))
    graph(place / "odd.onnx", helper.make_node("Frobnicate", [n], y, name=INNER, domain="n[/]\x1b[31m"))
    shape = numpy_helper.from_array(np.array([7, 9]), INNER + "k")
    graph(place / "breaks.onnx", helper.make_node("Reshape", [n, INNER + "k"], y, name=INNER), shape)
    write(place / "bundle")
    return place


COMMANDS = {
    "lint": ["lint", "odd.onnx", "--target", "ort_mobile"],
    "lint, JSON": ["lint", "odd.onnx", "--target", "ort_mobile", "--json"],
    "fuse": ["fuse", "fine.onnx", "-o", "fused.onnx"],
    "fuse, JSON": ["fuse", "fine.onnx", "-o", "fused.onnx", "--json"],
    "fuse, to nowhere": ["fuse", "fine.onnx", "-o", "no/fused.onnx"],
    "diff": ["diff", "fine.onnx"],
    "diff, what breaks": ["diff", "fine.onnx", "breaks.onnx"],
    "main job, odd": ["odd.onnx", "-o", "made"],
    "main job, breaks": ["breaks.onnx", "-o", "made"],
    "verify": ["verify", "bundle"],
    "verify, JSON": ["verify", "bundle", "--json"],
    "verify, no bundle": ["verify", "fine.onnx"],
    "no command": ["n\x1b[31m[/]"],
    "usage": ["report", "bundle", "n\x1b[31m\nerror: all is well"],
    "option": ["report", "bundle", "--n\x1b[31m"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_lets_a_name_act(name: str, folder: Path) -> None:
    words = [str(folder / word) if (folder / word).exists() or "/" in word else word for word in COMMANDS[name]]
    words = [str(folder / word) if word in ("made", "fused.onnx") else word for word in words]
    came = run(*words)
    assert came.code in (0, 1, 2, 3)
    assert came.out + came.err
    for stream in (came.out, came.err):
        assert not HIDDEN.search(stream), stream
    if "--json" in words:
        assert isinstance(came.json, dict), "one JSON value, also where a gate fails"


def test_the_main_job_is_clean_down_to_the_descriptors(folder: Path) -> None:
    target = folder / "made"
    command = [sys.executable, "-m", "attn_export", str(folder / "fine.onnx"), "--fuse", "-v", "-o", str(target)]
    done = subprocess.run([*command, "--duration", "0", "--no-bench"], capture_output=True, check=False)
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 0, err
    assert not HIDDEN.search(out + err), out + err
    hint = next(found for line in out.splitlines() if (found := line.partition("verify it anywhere: ")[2]))
    assert shlex.split(hint) == ["attn-export", "verify", text.line(str(target))]
    for kind in ("markdown", "html", "junit", "sarif", "json"):
        came = run("report", target, "--format", kind)
        assert came.code == 0, came.err
        assert not HIDDEN.search(came.out)


@hostile
@given(names)
@example(ALL)
def test_json_on_disk_shows_names_and_says_the_same(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    file = tmp_path_factory.mktemp("json") / "x.json"
    bundle.write_json(file, {"name": name, name: [1]})
    source = file.read_bytes().decode()
    assert not HIDDEN.search(source)
    wanted = re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", name)
    assert json.loads(source) == {"name": wanted, wanted: [1]}


def test_a_file_whose_name_is_no_utf8_goes_through_the_main_job(folder: Path) -> None:
    file, target = folder / os.fsdecode(b"caf\xe9.onnx"), folder / "odd name"
    shutil.copy(folder / "fine.onnx", file)
    came = run(file, "-o", target, "--no-bench", "--mutants", "none")
    assert came.code == 0, came.err
    assert run("verify", target).code == 0
    for kind in ("markdown", "html", "junit", "sarif", "json"):
        assert run("report", target, "--format", kind).code == 0
