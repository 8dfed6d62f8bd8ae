"""Make a subject of the user's own network: ``package.module:factory`` or ``path/to/file.py:Class``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from attn_export.errors import SubjectError, UnknownNameError, UsageError
from attn_export.export.binding import misplaced, needed, ordered, owner, parameters
from attn_export.export.input_shapes import Described, described
from attn_export.export.refused_files import refusal
from attn_export.export.source import Source, SourceOptions, refuse_catalogue_options
from attn_export.process.guest import guest

if TYPE_CHECKING:
    from torch import nn

    from attn_export.export.subject import Subject


class _UserCode:
    def claims(self, text: str) -> bool:
        return ":" in text and not text.endswith(".onnx")

    def load(self, options: SourceOptions) -> Subject:
        from attn_export.export.subject import with_dynamic

        if why := refusal(options.text):
            raise SubjectError(why)
        refuse_catalogue_options(options)
        built = from_code(
            options.text,
            options.inputs,
            arguments=options.arguments,
            weights=options.weights,
            strict=options.strict,
            random_weights=options.randomize,
            seed=options.seed,
            weights_key=options.weights_key,
            outputs=options.outputs,
        )
        return with_dynamic(built, options.dynamic or "all")


SOURCE: Source = _UserCode()


def from_code(
    text: str,
    shapes: Sequence[str],
    *,
    arguments: Mapping[str, object] | None = None,
    weights: Path | None = None,
    strict: bool = True,
    random_weights: bool = True,
    seed: int = 0,
    weights_key: str | None = None,
    outputs: Sequence[str] = (),
) -> Subject:
    """Import, build and describe a network of the user's.

    Args:
        text: ``package.module:name`` or ``file.py:name``; the name is a class, a function that gives a module, or
            a module.
        shapes: one text for each input, as ``parse_input`` reads it.
        arguments: keyword arguments of the class or function.
        weights: a checkpoint; taken as it is.
        strict: whether names that do not fit are an error.
        random_weights: without a checkpoint, draw the weights anew instead of keeping those of the constructor.
        seed: for the constructor and for the random weights.
        weights_key: the part of the checkpoint to take, keys joined by dots.
        outputs: those to give, as ``chosen.choose`` reads them; all that are tensors without any.

    Raises:
        SubjectError: it cannot be imported or found, or does not run.
        UsageError: no shapes, or shapes that cannot be read.
        CheckpointError: the weights do not fit.
    """
    from torch import nn

    from attn_export.export import lazy, training
    from attn_export.export.asking import template
    from attn_export.export.chosen import settle
    from attn_export.export.construct import of_program
    from attn_export.export.parts import evaluating
    from attn_export.export.subject import Subject
    from attn_export.export.unwrapped import settle_weights, unwrapped
    from attn_export.export.weights import checkpoint
    from attn_export.export.weights.randomize import randomize
    from attn_export.export.widened import widened

    source, _, name = text.rpartition(":")
    found = _find(_import(source), source, name)
    found = of_program(found)
    if isinstance(found, nn.Module):
        with guest(f"{text} cannot be put into eval mode"):
            module = evaluating(found)
    elif callable(found):
        module = _built(text, found, arguments or {}, seed)
    else:
        raise SubjectError(f"expected a class or function that gives a module, got {text}, a {type(found).__name__}")
    module = evaluating(unwrapped(module, text))
    training.refuse(module, ran=False)
    if not shapes:
        raise UsageError(f"{text}: input shapes are required; {template(module)}")
    given = _in_order(described(shapes, _parameters(module)), module)
    first = Subject(name, module, given.items, given.sizes).example(seed=seed)
    notes = (_hidden(module), lazy.settled(module, first, seed))
    random = weights is None and random_weights
    if weights is not None:
        origin = checkpoint.into(module, weights, weights_key, strict=strict)
    elif random:
        randomize(module, seed)
        origin = f"random, seed {seed}"
    else:
        origin = f"as the constructor gave them, seed {seed}"
    settle_weights(module)
    module, items, wide = widened(module, given.items, first)
    given = replace(given, items=items)
    first = Subject(name, module, given.items, given.sizes).example(seed=seed)
    dims = tuple(given.dims.values())
    made = Subject(name, module, given.items, given.sizes, dims, origin, random=random)
    chosen, left = settle(module, first, outputs)
    return replace(made, outputs=chosen, notes=tuple(filter(None, (*notes, wide, *left))))


def _hidden(module: nn.Module) -> str:
    """Say which parts are in plain lists, where checkpoints do not reach them."""
    from attn_export.export.parts import hidden

    names = [name for name, part in hidden(module).items() if any(True for _ in part.parameters(recurse=False))]
    if not names:
        return ""
    return (
        f"parts in plain lists or dicts, which no checkpoint reaches, keep the weights of their constructor:"
        f" {', '.join(names[:5])}{' …' if len(names) > 5 else ''}; use nn.ModuleList or nn.ModuleDict"
    )


def _in_order(given: Described, module: nn.Module) -> Described:
    """Hold names that are typed to ``forward``'s parameters; those that are its own go to these, in its order.

    Raises:
        UsageError: some names are its parameters and others are not, or a parameter that it needs is not given.
    """
    from attn_export.export.asking import scalar, template

    known = _parameters(module)
    names = [item.name for item in given.items]
    strange = [name for name in names if owner(name, known) not in known]
    if strange and _takes_more(module):
        strange = [] if len(strange) < len(names) else strange
    if strange and len(strange) < len(names) and len(names) <= len(known):
        raise UsageError(
            f"--input names {strange[0]!r}; {type(module).__name__}.forward takes {', '.join(known)}: give those names,"
            " or names of your own for all of them"
        )
    if strange:
        return given
    if why := misplaced(names, known):
        raise UsageError(f"--input: {why}")
    given_ones = {owner(name, known) for name in names}
    if missing := [name for name in needed(module) if name not in given_ones]:
        why = scalar(module, missing[0]) or template(module, missing)
        raise UsageError(f"{type(module).__name__}.forward needs {missing[0]!r} as well; {why}")
    by_name = {item.name: item for item in given.items}
    return replace(given, items=tuple(by_name[name] for name in ordered(module, names)))


def _takes_more(module: nn.Module) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in parameters(module))


def _import(source: str) -> ModuleType:
    """Import the user's module; what lies beside it, or in the current folder, is found after everything installed.

    ``python -m`` puts that folder first. Here a ``numpy.py`` in it would then be what *we* import later.
    """
    if not source:
        raise SubjectError("expected package.module:name or file.py:name, got no module before the colon")
    with guest(f"{source} cannot be imported"):
        if not source.endswith(".py"):
            _find_last(str(Path.cwd()))
            return importlib.import_module(source)
        path = Path(source).resolve()
        if not path.is_file():
            raise SubjectError(f"there is no file {source}")
        name = _free(path)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        _find_last(str(path.parent))
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module


def _find_last(folder: str) -> None:
    """Let modules of a folder be found, after all others."""
    if folder not in sys.path:
        sys.path.append(folder)


def _free(path: Path) -> str:
    """Choose the name to import a file under: its own, unless that is another module's."""
    known = sys.modules.get(path.stem)
    if known is not None:
        return path.stem if getattr(known, "__file__", None) == str(path) else f"_user_{path.stem}"
    return f"_user_{path.stem}" if importlib.util.find_spec(path.stem) is not None else path.stem


def _find(module: ModuleType, source: str, name: str) -> object:
    with guest(f"{source} has no {name!r}"):
        try:
            return getattr(module, name)
        except AttributeError:
            known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            message = str(UnknownNameError(f"name in {source}", name, known))
            raise SubjectError(message) from None


def _built(text: str, factory: object, arguments: Mapping[str, object], seed: int) -> nn.Module:
    from attn_export.export.construct import construct

    with guest(f"{text} cannot be built"):
        return construct(factory, arguments, seed)


def _parameters(module: nn.Module) -> list[str]:
    return [p.name for p in parameters(module) if p.kind is not p.VAR_KEYWORD]
