"""What holds for every entry: its card, its shapes, its independence of the batch, its stillness."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from attn_export.export.sources.catalogue import from_spec
from attn_export.export.subject import Subject
from attn_export.mechanisms import MECHANISMS, static_spec
from tests.mechanisms.shapes import checked

pytestmark = pytest.mark.slow


def configurations() -> Iterator[tuple[str, str]]:
    for name in MECHANISMS:
        path = MECHANISMS.entry(name).path
        assert path is not None
        spec = static_spec.read(path).spec
        yield from ((name, preset) for preset in ("test", *spec.variants))


@pytest.fixture(params=list(configurations()), ids=":".join)
def subject(request: pytest.FixtureRequest) -> Subject:
    name, preset = request.param
    return from_spec(name, MECHANISMS[name], preset)


def run(subject: Subject, inputs: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
    feeds = [v.to(dtype) if v.is_floating_point() else v for v in inputs.values()]
    with torch.no_grad():
        output = subject.module.to(dtype)(*feeds)
    assert isinstance(output, Tensor), "an entry gives one tensor"
    return output


@pytest.mark.parametrize("name", list(MECHANISMS))
def test_card_read_without_import_equals_the_spec(name: str) -> None:
    path = MECHANISMS.entry(name).path
    assert path is not None
    read = static_spec.read(path)
    assert static_spec.unnamed(read.spec) == static_spec.unnamed(MECHANISMS[name])
    assert static_spec.summary(path) == read.summary.split("  ")[0]
    assert read.summary.endswith("."), "the first line is a sentence"
    assert read.formula, "the formula stands below the sentence"
    assert "test" in read.spec.presets
    assert read.spec.default in read.spec.configurations


def test_shapes_are_those_of_the_signature(subject: Subject) -> None:
    with checked(subject.module):
        run(subject, subject.example())


def test_output_depends_on_the_input_and_is_finite(subject: Subject) -> None:
    first, second = run(subject, subject.example(seed=1)), run(subject, subject.example(seed=2))
    assert torch.isfinite(first).all()
    assert (first - second).abs().max() > 1e-3 * first.abs().max()


def test_a_second_call_gives_the_same_bits_and_the_state_is_unchanged(subject: Subject) -> None:
    inputs = subject.example(seed=3)
    state = {k: v.clone() for k, v in subject.module.state_dict().items()}
    kept = {k: v.clone() for k, v in inputs.items()}
    first, second = run(subject, inputs), run(subject, inputs)
    assert torch.equal(first, second)
    assert all(torch.equal(v, state[k]) for k, v in subject.module.state_dict().items())
    assert all(torch.equal(v, kept[k]) for k, v in inputs.items()), "inputs must not be written to"


def test_items_of_a_batch_do_not_influence_each_other(subject: Subject) -> None:
    both = subject.example(seed=4, sizes={"b": 2})
    with torch.no_grad():
        together = run(subject, both, torch.float64)
        alone = run(subject, {k: v[1:] for k, v in both.items()}, torch.float64)
    assert (together[1:] - alone).abs().max() <= 1e-12 * together.abs().max()


def test_every_parameter_matters_or_is_excused(subject: Subject) -> None:
    """Nothing hidden, nothing dead: each parameter gets a gradient when it can have one."""
    module = subject.module.double()
    inputs = [v.double() if v.is_floating_point() else v for v in subject.example(seed=5).values()]
    if not any(p.requires_grad for p in module.parameters()):
        return  # an entry without parameters
    output = module(*inputs)
    weights = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(0))
    (output * weights).sum().backward()
    dead = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert not dead


@pytest.mark.parametrize("name", list(MECHANISMS))
def test_options_that_do_not_fit_are_refused_in_words(name: str) -> None:
    """Each whole number one up, at 5 and at 7: the entry is built, or says which option cannot be."""
    spec = MECHANISMS[name]
    preset = spec.presets["test"]
    factory = preset.build or spec.build
    for option, parameter in inspect.signature(factory).parameters.items():
        kept = preset.arguments.get(option, parameter.default)
        if isinstance(kept, int) and not isinstance(kept, bool):
            for value in {kept + 1, 5, 7}:
                with contextlib.suppress(ValueError):
                    factory(**{**preset.arguments, option: value})


#: No refusal: a variant with inputs of its own, held by that variant's tests.
OTHER_INPUTS = {("gmlp", "vocabulary", 0)}


@pytest.mark.parametrize("name", list(MECHANISMS))
def test_nothing_and_less_are_refused_by_the_name_of_the_option_or_work(name: str) -> None:
    """Each whole number at 0 and at -1: a ValueError that names the option, or a module that runs."""
    spec = MECHANISMS[name]
    preset = spec.presets["test"]
    factory = preset.build or spec.build
    inputs = from_spec(name, spec, "test").example().values()
    for option, parameter in inspect.signature(factory).parameters.items():
        kept = preset.arguments.get(option, parameter.default)
        if isinstance(kept, int) and not isinstance(kept, bool):
            for value in (0, -1):
                if (name, option, value) in OTHER_INPUTS:
                    continue
                built = built_or_refusal(factory, {**preset.arguments, option: value})
                if isinstance(built, str):
                    assert re.search(rf"\b{option}\b", built), f"{option}={value}: {built}"
                else:
                    with torch.no_grad():
                        assert built(*inputs).numel(), f"{option}={value} gives nothing"


def built_or_refusal(factory: Callable[..., nn.Module], arguments: dict[str, object]) -> nn.Module | str:
    try:
        return factory(**arguments).eval()
    except ValueError as error:
        return str(error)


def test_half_precision_is_finite_or_the_entry_says_in_a_sentence_why_not(subject: Subject) -> None:
    """At input scales 1 and 8."""
    spec = MECHANISMS[subject.name.partition(":")[0]]
    faults = not_finite(subject)
    assert not faults or spec.float16_unsafe, "float16 overflows; guard it, or say why in float16_unsafe"
    if (
        spec.float16_unsafe and not faults and subject.name.endswith(":test")
    ):  # deserved on large maps, or in full size?
        large = {dim.name: 48 for dim in subject.dynamic if dim.name != "b"}
        whole = from_spec("whole", spec, "readme")
        assert not_finite(subject, large) or not_finite(whole, {"b": 1}), "float16 holds: take float16_unsafe away"


def not_finite(subject: Subject, sizes: dict[str, int] | None = None) -> list[float]:
    """Scales of the input at which the module in float16 gives NaN or infinity."""
    feeds = {scale: subject.example(seed=6, scale=scale, sizes=sizes) for scale in (1.0, 8.0)}
    return [scale for scale, feed in feeds.items() if not run(subject, feed, torch.float16).isfinite().all()]
