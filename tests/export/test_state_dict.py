"""What is taken from a file of weights, how its names are brought to the module's, and what is said about it."""

from __future__ import annotations

import argparse
import types
from pathlib import Path, PosixPath, PurePath
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from attn_export import bundle
from attn_export.errors import CheckpointError
from attn_export.export.sources.catalogue import from_spec
from attn_export.export.sources.user_code import from_code
from attn_export.export.weights import state_dict, weights_file
from attn_export.mechanisms import MECHANISMS
from tests.tools.run import run

NET = """
from torch import nn
def net():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
"""
RAW = {"0.weight": torch.zeros(4, 3, 1, 1), "0.bias": torch.zeros(4)}
RAW |= {"2.weight": torch.zeros(2, 4, 1, 1), "2.bias": torch.zeros(2)}
EMA = {name: value + 1 for name, value in RAW.items()}


@pytest.fixture(autouse=True)
def in_a_folder_with_a_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)


def loaded(content: object, *, strict: bool = True, key: str | None = None) -> tuple[nn.Module, str]:
    torch.save(content, "net.pth")
    made = from_code("net.py:net", ["1x3x2x2"], weights=Path("net.pth"), strict=strict, weights_key=key)
    return made.module, made.weights.partition(" sha256 ")[2][64:]


class TestWhichPart:
    @pytest.mark.parametrize("name", ["state_dict_ema", "model_ema", "params_ema", "ema_state_dict", "ema"])
    def test_averaged_weights_come_first_and_are_said(self, name: str) -> None:
        for content in ({"state_dict": RAW, name: EMA}, {name: {"module": EMA, "decay": 0.9}, "model": RAW}):
            module, said = loaded(content)
            assert all(bool((value == 1).all()) for value in module.state_dict().values())
            assert said.startswith(f", its {name}")
            assert "also there: " in said

    @pytest.mark.parametrize(
        ("key", "value"), [("state_dict", 0), ("both.state_dict_ema", 1), ("both", 1), ("flat.a.b", 1), ("odd.name", 0)]
    )
    def test_a_key_chooses(self, key: str, value: int) -> None:
        content = {
            "state_dict": RAW,
            "model_ema": {name: v + 5 for name, v in RAW.items()},
            "both": {"state_dict": RAW, "state_dict_ema": EMA},
            "flat": {**{f"a.b.{name}": v for name, v in EMA.items()}, **{f"c.{n}": v for n, v in RAW.items()}},
            "odd.name": RAW,
        }
        module, _ = loaded(content, key=key)
        assert all(bool((v == value).all()) for v in module.state_dict().values())

    def test_a_key_that_is_not_there_lists_what_is(self) -> None:
        with pytest.raises(CheckpointError, match=r"no weights under --weights-key 'emma'.*state_dict \(4 tensors\)"):
            loaded({"state_dict": RAW, "epoch": 3}, key="emma")
        with pytest.raises(CheckpointError, match=r"holds no tensors.*takes one of: generator \(4 tensors\)"):
            loaded({"generator": RAW})

    def test_a_part_without_tensors_is_no_part(self) -> None:
        """An empty average, and a description of the model under the name of its weights."""
        module, said = loaded({"state_dict_ema": {}, "model_ema": None, "model": {"depth": 3}, "state_dict": EMA})
        assert bool((module.state_dict()["0.bias"] == 1).all())
        assert said == ", its state_dict"

    def test_a_part_that_holds_itself_ends(self) -> None:
        content: dict[str, Any] = {"epoch": 1}
        content["state_dict"] = content["again"] = content
        with pytest.raises(CheckpointError, match="holds no tensors"):
            state_dict.take(content, "x")
        for key in ("state_dict.again.state_dict", "again"):
            with pytest.raises(CheckpointError, match="no weights under"):
                state_dict.take(content, "x", key)

    def test_plain_objects_beside_the_weights_are_read_and_others_are_not(self) -> None:
        beside = {
            "args": argparse.Namespace(lr=0.1, out=PosixPath("runs/1")),
            "config": types.SimpleNamespace(a=[1, 2]),
            "best": np.float64(0.5),
            "step": np.int64(3),
        }
        torch.save({**beside, "model": EMA}, "net.pth")
        content = weights_file.read(Path("net.pth"))
        assert isinstance(content, dict)
        assert content["args"].lr == 0.1
        assert type(content["args"].out) is not PosixPath
        assert isinstance(content["args"].out, PurePath)
        assert float(content["best"]) == 0.5
        loaded({**beside, "model": EMA})
        torch.save({"net": nn.Linear(1, 1), "model": EMA}, "net.pth")
        with pytest.raises(CheckpointError, match="cannot be read as weights"):
            weights_file.read(Path("net.pth"))
        # allowed inside one block only
        assert argparse.Namespace not in torch.serialization.get_safe_globals()


class TestNames:
    @pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "backbone.", "a.b.c.", "model."])
    def test_any_prefix_that_all_share_is_taken_off_and_said(self, prefix: str) -> None:
        module, said = loaded({f"{prefix}{name}": value for name, value in EMA.items()})
        assert bool((module.state_dict()["2.weight"] == 1).all())
        assert said == f", prefix {prefix} taken off"

    def test_a_prefix_of_the_modules_own_stays(self) -> None:
        Path("net.py").write_text(
            "from torch import nn\ndef net(): return nn.Sequential(nn.Sequential(nn.Conv2d(3, 1, 1)))"
        )
        state = {"0.0.weight": torch.ones(1, 3, 1, 1), "0.0.bias": torch.ones(1)}
        assert loaded(state)[1] == ""
        assert loaded({f"module.{k}": v for k, v in state.items()})[1] == ", prefix module. taken off"

    def test_one_name_without_the_prefix_keeps_it(self) -> None:
        with pytest.raises(CheckpointError, match="none of the 5 tensors"):
            loaded({**{f"net.{name}": value for name, value in EMA.items()}, "loss": torch.zeros(1)})

    @pytest.mark.parametrize("strict", [True, False])
    def test_no_match_is_an_error(self, strict: bool) -> None:
        with pytest.raises(CheckpointError, match=r"none of the 1 tensors .* a name of the module's 4"):
            loaded({"fc.weight": torch.zeros(3)}, strict=strict)
        with pytest.raises(CheckpointError, match="none of the 1 tensors"):  # weights for what has none
            torch.save({"gamma": torch.ones(3)}, "net.pth")
            from_spec("simam", MECHANISMS["simam"], "test", weights=Path("net.pth"), strict=strict)

    def test_counts_of_batches_are_no_match(self) -> None:
        Path("net.py").write_text("from torch import nn\ndef net(): return nn.BatchNorm2d(3)")
        with pytest.raises(CheckpointError, match="none of the 0 tensors"):
            loaded({"num_batches_tracked": torch.tensor(3)}, strict=False)

    def test_few_matches_are_counted(self) -> None:
        _, said = loaded({"0.bias": torch.ones(4), "head.bias": torch.ones(7)}, strict=False)
        assert said == ", 1 of 4 tensors matched (0.154 of 26 numbers), 4 names left alone"

    def test_names_that_begin_as_a_sources_and_go_on_otherwise(self, tmp_path: Path) -> None:
        torch.save({"gmlp.0": torch.zeros(1), "to_logits.1.weight": torch.zeros(1)}, "net.pth")
        with pytest.raises(CheckpointError):
            from_spec("gmlp", MECHANISMS["gmlp"], "test", weights=Path("net.pth"))
        torch.save({"gmlp.0.x": torch.zeros(1), "to_logits.1.weight": torch.zeros(1)}, "net.pth")
        with pytest.raises(CheckpointError, match="do not go on as it"):
            from_spec("gmlp", MECHANISMS["gmlp"], "test", weights=Path("net.pth"))


class TestKinds:
    @pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
    def test_floats_of_any_width_are_cast_and_said(self, kind: torch.dtype) -> None:
        module, said = loaded({name: value.to(kind) for name, value in EMA.items()})
        assert {value.dtype for value in module.state_dict().values()} == {torch.float32}
        assert said == f", 4 tensors cast from {str(kind).removeprefix('torch.')}"

    @pytest.mark.parametrize(
        "kind", [torch.int8, torch.uint8, torch.int64, torch.complex64, torch.bool, torch.float8_e4m3fn]
    )
    @pytest.mark.parametrize("strict", [True, False])
    def test_other_kinds_are_refused_by_name(self, kind: torch.dtype, strict: bool) -> None:
        name = str(kind).removeprefix("torch.")
        with pytest.raises(CheckpointError, match=rf"0\.weight \({name}, the module's is float32\)"):
            loaded({**EMA, "0.weight": EMA["0.weight"].to(kind)}, strict=strict)

    @pytest.mark.filterwarnings("ignore:torch.quantize")
    def test_tensors_that_are_stored_otherwise_are_refused(self) -> None:
        for value in (EMA["0.bias"].to_sparse(), torch.quantize_per_tensor(EMA["0.bias"], 0.1, 0, torch.qint8)):
            with pytest.raises(CheckpointError, match=r"0\.bias"):
                loaded({**EMA, "0.bias": value})

    def test_numbers_too_large_for_the_module_are_refused(self) -> None:
        with pytest.raises(CheckpointError, match=r"0\.bias has numbers that float32 cannot hold"):
            loaded({**EMA, "0.bias": torch.full((4,), 1e300, dtype=torch.float64)})

    def test_buffers_of_whole_numbers_and_truths_are_loaded(self) -> None:
        Path("net.py").write_text(
            "import torch\nfrom torch import nn\n"
            "class net(nn.Module):\n"
            "    def __init__(self):\n        super().__init__()\n"
            "        self.register_buffer('i', torch.zeros(2, dtype=torch.int64))\n"
            "        self.register_buffer('m', torch.zeros(2, dtype=torch.bool))\n"
            "    def forward(self, x): return x + self.i * self.m\n"
        )
        module, said = loaded({"i": torch.tensor([1, 2]), "m": torch.tensor([True, False])})
        assert said == ""
        assert module.state_dict()["i"].tolist() == [1, 2]


class TestCommand:
    """The options, what is printed, and what the bundle records."""

    QUICK = ("--no-bench", "--mutants", "none")

    def test_the_part_and_the_prefix_are_printed_and_recorded(self) -> None:
        torch.manual_seed(0)
        ema = {f"model.{name}": torch.randn(value.shape) for name, value in RAW.items()}
        torch.save({"state_dict": RAW, "state_dict_ema": ema, "args": argparse.Namespace(a=1)}, "net.pth")
        command = ("net.py:net", "--input", "1x3x2x2", "--weights", "net.pth", *self.QUICK, "-o", "out")
        done = run(*command)
        assert done.code == 0, done.err
        said = "its state_dict_ema (also there: state_dict), prefix model. taken off"
        assert said in done.err
        assert bundle.read(Path("out")).manifest["subject"]["weights"].endswith(said)
        assert run(*command, "--weights-key", "nothing").code == 3

    def test_a_variant_is_asked_for_printed_and_recorded(self) -> None:
        shapes = {"proj_in": (32, 16, 1, 1), "dwconv": (28, 1, 7, 7), "proj_out": (16, 16, 1, 1)}
        shapes |= {"pws.0": (8, 4, 1, 1), "pws.1": (16, 8, 1, 1)}
        torch.manual_seed(0)
        state = {f"{k}.weight": torch.randn(s) / 4 for k, s in shapes.items()}
        save_file(state | {f"{k}.bias": torch.randn(s[0]) for k, s in shapes.items()}, "net.safetensors")
        command = ("gnconv", "--preset", "test", "--weights", "net.safetensors", *self.QUICK, "-o", "out")
        for more in ((), ("--no-strict-weights",)):
            done = run(*command, *more)
            assert done.code == 3
            assert "choose with --variant: hornet (" in done.err
            assert not Path("out").exists()
        done = run(*command, "--variant", "unscaled", "--fuse")
        assert done.code == 0, done.err
        assert "as unscaled (" in done.err
        assert "as unscaled (" in bundle.read(Path("out")).manifest["subject"]["weights"]

    def test_options_about_a_file_need_the_file(self) -> None:
        done = run("gnconv", "--variant", "hornet")
        assert done.code == 2
        assert "give the file, too" in done.err
        torch.save(RAW, "net.pth")
        done = run("net.py:net", "--input", "1x3x2x2", "--weights", "net.pth", "--variant", "x")
        assert done.code == 2
        assert "--variant is for catalogue entries" in done.err


def test_what_a_module_keeps_beside_its_tensors_is_passed_over() -> None:
    Path("net.py").write_text(
        "from torch import nn\n"
        "class net(nn.Conv2d):\n"
        "    def __init__(self): super().__init__(3, 1, 1)\n"
        "    def get_extra_state(self): return {'epoch': 3}\n"
        "    def set_extra_state(self, state): raise RuntimeError('not mine')\n"
    )
    assert loaded({"weight": torch.ones(1, 3, 1, 1), "bias": torch.ones(1)})[1] == ""
