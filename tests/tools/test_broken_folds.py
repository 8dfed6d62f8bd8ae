"""A fold that is wrong makes the main command exit 1, by the certificate and by the parity gate alone."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attn_export.reparam import fuse as fusing
from attn_export.reparam import rule
from attn_export.reparam.algebra import Array, Convolution, batch_norm
from attn_export.reparam.fusion import Certificate
from attn_export.reparam.rules import repvgg
from tests.tools.run import run

Break = Callable[[pytest.MonkeyPatch], None]


def forget_running_mean(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rule, "batch_norm", lambda g, b, m, v, e: batch_norm(g, b, np.zeros_like(m), v, e))


def forget_epsilon(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rule, "batch_norm", lambda g, b, m, v, e: batch_norm(g, b, m, v, 0.0))


def drop_identity(patch: pytest.MonkeyPatch) -> None:
    def nothing(channels: int, groups: int = 1) -> Convolution:
        return Convolution(np.zeros((channels, channels // groups, 1, 1)), np.zeros(channels), groups=groups)

    patch.setattr(repvgg, "identity", nothing)


def swap_two_kernels(patch: pytest.MonkeyPatch) -> None:
    emit = rule.emit

    def swapped(convolution: Convolution, like: Any) -> Any:
        weight: Array = convolution.weight[[1, 0, *range(2, len(convolution.weight))]]
        return emit(dataclasses.replace(convolution, weight=weight), like)

    patch.setattr(repvgg, "emit", swapped)


BREAKS = [forget_running_mean, forget_epsilon, drop_identity, swap_two_kernels]
COMMAND = ("repvgg", "--preset", "test", "--fuse", "--no-bench", "-q")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("broken", BREAKS)
def test_the_certificate_sees_it(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    done = run(*COMMAND)
    assert done.code == 1, done
    assert "fusing changed the model" in done.err
    assert os.listdir() == [], "nothing was written"


@pytest.mark.parametrize("broken", BREAKS)
def test_the_parity_gate_sees_it_without_the_certificate(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    monkeypatch.setattr(fusing, "certify", lambda *_: Certificate((0.0,)))
    done = run(*COMMAND)
    assert done.code == 1, done
    assert "parity fails" in done.err
    assert os.listdir() == []


def test_unbroken_it_passes() -> None:
    assert run(*COMMAND).code == 0
