"""The catalogue's frame: shelves, cards, checkpoints, random weights, the user's own networks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from attn_export.errors import AttnExportError, CheckpointError, LoadError, UnknownNameError, UsageError
from attn_export.export.input_shapes import inputs_of, parse_input
from attn_export.export.sources.catalogue import from_spec
from attn_export.export.subject import draw
from attn_export.export.weights import checkpoint
from attn_export.export.weights.randomize import randomize
from attn_export.mechanisms import MECHANISMS, static_spec
from attn_export.mechanisms.spec import Input, Spec
from attn_export.registry import Registry
from attn_export.types import Dim


class TestShelf:
    def test_a_file_is_an_entry_and_its_name_is_the_files(self) -> None:
        assert MECHANISMS.entry("se").family == "attention"
        assert {"se", "repvgg", "mlp_mixer"} <= set(MECHANISMS)
        assert len(MECHANISMS) == len(list(MECHANISMS))

    @pytest.mark.parametrize("name", MECHANISMS)
    def test_a_mechanism_is_read_in_one_go(self, name: str) -> None:
        path = MECHANISMS.entry(name).path
        assert path is not None
        assert len(path.read_text().splitlines()) <= 150

    def test_an_unknown_name_says_which_are_near(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'triplet'"):
            MECHANISMS["tripplet"]

    def test_two_files_of_one_name_are_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for family in ("one", "two"):
            (tmp_path / "registry" / family).mkdir(parents=True)
            (tmp_path / "registry" / family / "__init__.py").touch()
            (tmp_path / "registry" / family / "se.py").touch()
        monkeypatch.setattr("attn_export.registry.__file__", str(tmp_path / "_shelf.py"))
        registry: Registry[object] = Registry("attn_export.registry", "MECHANISM", "mechanism", families=True)
        with pytest.raises(AttnExportError, match="two mechanisms are called 'se'"):
            registry.entries  # noqa: B018

    def test_other_distributions_add_entries(self, monkeypatch: pytest.MonkeyPatch) -> None:
        point = SimpleNamespace(name="theirs", value="attn_export.mechanisms.attention.se:MECHANISM")
        monkeypatch.setattr("attn_export.registry.entry_points", lambda group: [point] if "mechanisms" in group else [])
        registry: Registry[Spec] = Registry("attn_export.mechanisms", "MECHANISM", "mechanism", families=True)
        assert registry.entry("theirs").family == "plug-in"
        assert registry["theirs"] is MECHANISMS["se"]
        point.name = "se"
        with pytest.raises(AttnExportError, match="two mechanisms are called 'se'"):
            Registry("attn_export.mechanisms", "MECHANISM", "mechanism", families=True).entries  # noqa: B018


class TestCard:
    def test_what_is_not_literal_is_refused_with_its_line(self, tmp_path: Path) -> None:
        file = tmp_path / "x.py"
        file.write_text('"""A sentence.\n\nformula\n"""\nMECHANISM = Spec(paper=make())\n')
        with pytest.raises(LoadError, match=r"line 5: make\(\) is not literal"):
            static_spec.read(file)

    def test_a_file_without_an_entry_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "x.py"
        file.write_text('"""A sentence."""\n')
        with pytest.raises(LoadError, match="no MECHANISM"):
            static_spec.read(file)

    def test_a_card_builds_nothing(self) -> None:
        path = MECHANISMS.entry("se").path
        assert path is not None
        with pytest.raises(TypeError, match="was read, not imported"):
            static_spec.read(path).spec.build()


class TestCheckpoint:
    def test_wrappers_and_prefixes_come_off(self, tmp_path: Path) -> None:
        state = nn.Linear(2, 3).state_dict()
        for wrapped in (
            state,
            {"state_dict": state, "epoch": 1},
            {"model": {f"module.{k}": v for k, v in state.items()}},
            {"model_ema": {"state_dict": {f"module._orig_mod.{k}": v for k, v in state.items()}}},
        ):
            torch.save(wrapped, tmp_path / "net.pth")
            read = checkpoint.read(tmp_path / "net.pth")
            assert read.keys() == state.keys()
            assert all(torch.equal(read[k], state[k]) for k in state)

    def test_a_model_called_model_keeps_its_names(self) -> None:
        class Wrapped(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = nn.Linear(2, 2)
                self.head = nn.Linear(2, 2)

        state = Wrapped().state_dict()
        assert checkpoint.unwrap(state, "x").keys() == state.keys()

    @pytest.mark.parametrize("content", [b"", b"not a file of weights", b"\x80\x04}."])
    def test_damaged_files_are_one_sentence(self, tmp_path: Path, content: bytes) -> None:
        for name in ("net.pth", "net.safetensors"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(CheckpointError):
                checkpoint.read(tmp_path / name)

    def test_tensors_are_wanted(self) -> None:
        with pytest.raises(CheckpointError, match="holds no tensors; its keys: epoch"):
            checkpoint.unwrap({"epoch": 3}, "x")
        with pytest.raises(CheckpointError, match="expected a mapping of names to tensors in x, got a list"):
            checkpoint.unwrap([1], "x")

    def test_original_and_own_names_both_load(self, tmp_path: Path) -> None:
        spec = MECHANISMS["se"]
        original = {"fc.0.weight": torch.randn(8, 32), "fc.2.weight": torch.randn(32, 8)}
        one = from_spec("se", spec, "test").module
        checkpoint.load(one, original, spec=spec)
        assert torch.equal(one.get_parameter("squeeze.weight")[:, :, 0, 0], original["fc.0.weight"])
        save_file(one.state_dict(), tmp_path / "own.safetensors")
        other = from_spec("se", spec, "test", seed=9, weights=tmp_path / "own.safetensors").module
        assert all(torch.equal(v, one.state_dict()[k]) for k, v in other.state_dict().items())

    def test_shapes_that_differ_are_listed(self) -> None:
        with pytest.raises(CheckpointError, match=r"weight: module \(3, 2\), checkpoint \(2, 3\)"):
            checkpoint.load(nn.Linear(2, 3), {"weight": torch.zeros(2, 3), "bias": torch.zeros(3)})

    def test_the_count_of_batches_is_no_condition(self) -> None:
        state = {k: v for k, v in nn.BatchNorm2d(3).state_dict().items() if k != "num_batches_tracked"}
        assert checkpoint.load(nn.BatchNorm2d(3), state) == ()


class TestAwaken:
    def test_nothing_is_asleep_afterwards(self) -> None:
        class Sleepy(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.bn = nn.BatchNorm2d(64)
                self.norm = nn.LayerNorm(64)
                self.conv = nn.Conv2d(64, 64, 1)
                nn.init.normal_(self.conv.weight, std=1e-3)
                nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
                self.gate = nn.Parameter(torch.zeros(1))
                self.scale = nn.Parameter(torch.full((64,), 1e-6))

        module = Sleepy()
        randomize(module, 0)
        assert module.bn.running_mean is not None
        assert module.bn.running_var is not None
        assert 0.3 < module.bn.running_mean.std() < 0.7
        assert 0.5 <= module.bn.running_var.min() < 0.7
        assert 1.8 < module.bn.running_var.max() <= 2
        for weight in (module.bn.weight, module.norm.weight):
            assert 0 < (weight < 0).float().mean() < 0.4
            assert 0.5 <= weight.abs().min() <= weight.abs().max() <= 1.5
        assert float(module.conv.weight.detach().std()) == pytest.approx(1 / 8, rel=0.1)
        assert all(v.abs().max() > 0.01 for v in (module.bn.bias, module.norm.bias, module.gate, module.scale))

    def test_one_seed_gives_one_module_and_leaves_the_callers_random_state(self) -> None:
        before = torch.get_rng_state()
        one, two, three = (from_spec("se", MECHANISMS["se"], "test", seed=s).module.state_dict() for s in (0, 0, 1))
        assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(v, two[k]) for k, v in one.items())
        assert not all(torch.equal(v, three[k]) for k, v in one.items())

    def test_weights_that_are_awake_are_kept(self) -> None:
        linear = nn.Linear(64, 64)
        kept = linear.weight.clone()
        randomize(linear, 0)
        assert torch.equal(linear.weight, kept)


class TestInputs:
    @pytest.mark.parametrize("text", ["x:1x3x8x8", "x:[1,3,8,8]", "x:1,3,8,8", "x:[1, 3, 8, 8]", " x:1x3x8x8 "])
    def test_all_three_spellings_of_the_field(self, text: str) -> None:
        assert parse_input(text) == ("x", (1, 3, 8, 8), "float32", {})

    @pytest.mark.parametrize("text", ["", "x:", "1x0x3", "1xax3", "x:1x3:float8", "1..3", "x y:1x3", "b=x3", "1=2x3"])
    def test_what_cannot_be_read_is_refused(self, text: str) -> None:
        with pytest.raises(UsageError):
            parse_input(text)

    def test_names_come_from_forward(self) -> None:
        items, sizes = inputs_of(["1x2", "mask:b=3x4:bool", "5"], ["image", "other"])
        assert [item.name for item in items] == ["image", "mask", "x2"]
        assert items[1] == Input("mask", ("b", 4), "bool")
        assert sizes == {"b": 3}

    def test_one_seed_draws_one_value_and_inputs_differ(self) -> None:
        x, y = Input("x", (4, 5)), Input("y", (4, 5))
        assert torch.equal(draw(x, {}, 0), draw(x, {}, 0))
        assert not torch.equal(draw(x, {}, 0), draw(y, {}, 0))
        assert not torch.equal(draw(x, {}, 0), draw(x, {}, 1))
        assert torch.equal(draw(x, {}, 0, 8.0), draw(x, {}, 0) * 8)
        tokens = draw(Input("t", (1000,), "int64", 7), {}, 0)
        assert (tokens.min(), tokens.max()) == (0, 6)

    def test_a_dimension_says_what_it_admits(self) -> None:
        dim = Dim("h", step=4, min=8, max=16)
        assert [size for size in range(1, 30) if dim.admits(size)] == [8, 12, 16]
