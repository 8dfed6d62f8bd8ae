"""Weights under the names of others: each map gives the output that the module of the source gave, or an error.

``tests/data/published.json`` is what benchmarks.published_blocks wrote beside those modules: names and shapes of a
state dict, and the output in float64 under values that are drawn from the names.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attn_export.errors import CheckpointError
from attn_export.export.sources.catalogue import from_spec
from attn_export.export.weights import built, implementations, published
from attn_export.mechanisms import MECHANISMS
from attn_export.mechanisms.spec import Preset
from benchmarks.published import drawn

GOLDENS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "data" / "published.json").read_text("utf-8"))
NAMES = [f"{golden['entry']}-{golden['source']}-{i}" for i, golden in enumerate(GOLDENS)]
every = pytest.mark.parametrize("golden", GOLDENS, ids=NAMES)
#: Whole networks take a second each to build.
small = pytest.mark.parametrize("golden", [g for g in GOLDENS if len(g["state"]) < 60])
#: What the source itself computes in float32, so that its output is no float64.
NARROW = {("relu_linear", "timm's LiteMLA"), ("sdta", "EdgeNeXt's SplitTransposeBlock with positions")}

State = dict[str, Tensor]


def state(golden: dict[str, Any]) -> State:
    fixed = {name: torch.tensor(value, dtype=torch.float64) for name, value in golden["fixed"].items()}
    return drawn.state(golden["state"]) | fixed


def build(golden: dict[str, Any], weights: State) -> built.Built:
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in golden["arguments"].items()}
    return built.build(
        golden["entry"],
        MECHANISMS[golden["entry"]],
        Preset(arguments),
        weights,
        variant=golden["asked"],
        dtype=torch.float64,
    )


def run(golden: dict[str, Any], weights: State) -> list[float]:
    with torch.no_grad():
        return drawn.probes(build(golden, weights).module.eval()(*drawn.inputs(golden["inputs"])))


def far(came: list[float], golden: dict[str, Any]) -> float:
    expected = golden["output"]
    assert len(came) == len(expected)
    return max(abs(a - b) for a, b in zip(came[:-2], expected[:-2], strict=True)) / expected[-1]


@every
def test_the_output_is_the_sources(golden: dict[str, Any]) -> None:
    weights = state(golden)
    one = build(golden, weights)
    assert one.chosen.name == golden["source"]
    assert f"read as {golden['source']} (" in one.chosen.said[-1]
    assert one.filled.left == ()
    with torch.no_grad():
        came = drawn.probes(one.module.eval()(*drawn.inputs(golden["inputs"])))
    assert far(came, golden) <= (1e-6 if (golden["entry"], golden["what"]) in NARROW else 1e-12)


@small
def test_the_golden_sees_every_tensor_that_is_changed(golden: dict[str, Any]) -> None:
    """One tensor after the other is turned around; if the output stays, the golden could not tell two maps apart."""
    weights = state(golden)
    names = sorted(golden["state"])[:: max(1, len(golden["state"]) // 3)]
    for name in names:
        if weights[name].numel() > 1 and not _without_effect(golden, name):
            assert (
                far(
                    run(golden, {**weights, name: weights[name].flatten().flip(0).reshape(weights[name].shape) + 0.25}),
                    golden,
                )
                > 1e-9
            ), name


def _without_effect(golden: dict[str, Any], name: str) -> bool:
    """A bias that has no effect: all logits of a softmax share it, or what it is added to is weighed to nothing."""
    return (golden["entry"], name) in {
        ("gc", "conv_attn.bias"),
        ("gc", "conv_mask.bias"),
        ("danet", "sa.query_conv.bias"),
        ("non_local", "p.bias"),
        *(("emsa", f"{layer}.bias") for layer in ("kv", "sr_norm", "transform_conv")),  # normalised weights sum to 0
    }


@small
def test_a_name_too_few_or_too_many_is_an_error(golden: dict[str, Any]) -> None:
    weights = state(golden)
    whole = build(golden, weights).module.state_dict()
    for name in {min(weights), max(weights)} if len(weights) > 1 else ():
        if _without_effect(golden, name):
            continue
        fewer = {k: v for k, v in weights.items() if k != name}
        try:
            left = build(golden, fewer)
        except CheckpointError:
            continue
        # what may be missing: an option that the file then does not ask for
        assert set(left.module.state_dict()) < set(whole), name
    with pytest.raises(CheckpointError, match=r"unexpected 1 \(left\.over\)|do not go on as|not those of"):
        build(golden, {**weights, "left.over": torch.zeros(3, dtype=torch.float64)})


@pytest.mark.parametrize("entry", published.MAPS)
def test_every_map_is_declared_soundly(entry: str) -> None:
    options = inspect.signature(MECHANISMS[entry].build).parameters
    for name, source in published.MAPS[entry].items():
        assert name not in MECHANISMS[entry].sources
        assert source.shown_by
        assert all(pattern.lstrip("(").startswith("^") for pattern in source.shown_by)
        assert source.refused or {*source.arguments, *source.sized} <= set(options)
        seen = [g for g in GOLDENS if (g["entry"], g["source"]) == (entry, name)]
        assert seen or source.refused or (entry, name) in UNSEEN


#: Maps without a golden, since their source is not there to run; by what they are held instead.
UNSEEN = {
    ("cot", "authors"): "the local product runs on a GPU alone there",
    ("external", "authors"): "two matrices, in the order of their names",
    ("mobilevitv2", "authors"): "as timm's, in the same order",
    ("sdta", "authors"): "as timm's, under older names",
    ("resmlp", "authors"): "as timm's, under the names that timm itself renames",
    ("qarepvgg", "authors"): "as in YOLOv6, three names",
    ("mobileone_block", "timm"): "as a layer pair of mobileone",
}


@pytest.mark.parametrize("entry", published.MAPS)
def test_our_own_names_are_read_as_our_own(entry: str) -> None:
    spec = MECHANISMS[entry]
    own = from_spec(entry, spec, "test").module.state_dict()
    for source in published.MAPS[entry].values():
        assert not implementations.shows(source, own) or set(own) <= {"weight", "bias"}


@pytest.mark.parametrize("entry", ["se", "sk", "mbconv", "focal_modulation", "residual_attention"])
def test_names_that_mean_two_functions_are_asked_about(entry: str) -> None:
    golden = next(g for g in GOLDENS if g["entry"] == entry and g["source"] in published.MAPS[entry] and g["asked"])
    with pytest.raises(CheckpointError, match="do not say which function") as refusal:
        build({**golden, "asked": None}, state(golden))
    assert golden["source"] in str(refusal.value)


def test_what_is_refused_for_good() -> None:
    golden = next(g for g in GOLDENS if g["entry"] == "sk")
    with pytest.raises(CheckpointError, match="look at different channels"):
        build({**golden, "asked": "timm-split"}, state(golden))


def test_a_mask_that_is_another_is_refused() -> None:
    golden = next(g for g in GOLDENS if g["entry"] == "ecb")
    weights = state(golden)
    weights["conv1x1_lpl.mask"] = weights["conv1x1_lpl.mask"] * 2
    with pytest.raises(CheckpointError, match=r"conv1x1_lpl\.mask is not the"):
        build(golden, weights)


def test_sizes_come_from_the_file(tmp_path: Path) -> None:
    """The command line builds the entry at the sizes of the file, whatever the preset has."""
    golden = next(g for g in GOLDENS if g["entry"] == "cbam" and g["source"] == "authors")
    torch.save({f"layer1.cbam.{k}": v.float() for k, v in state(golden).items()}, tmp_path / "net.pth")
    subject = from_spec("cbam", MECHANISMS["cbam"], "readme", weights=tmp_path / "net.pth", weights_key="layer1.cbam")
    assert subject.inputs[0].shape == ("b", "channels", "h", "w")
    assert subject.sizes["channels"] == 32
    assert "read as authors (Jongchan/attention-module" in subject.weights
