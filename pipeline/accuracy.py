"""Top-1 of the original and of the int8 model on the user's labelled files: each is prepared once, for both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from attn_export.deploy_tests.backend import Options, Run
from attn_export.deploy_tests.backends import DEFAULT, opened
from attn_export.deploy_tests.data.split import Files
from attn_export.deploy_tests.parity.accuracy import Accuracy, Answer, paired
from attn_export.errors import UsageError
from attn_export.export.onnx.exported import Contract
from attn_export.process import activity
from attn_export.types import Feeds, TensorSpec


def measure_accuracy(
    original: Path,
    deployed: Path,
    files: Files,
    labels: Mapping[str, int],
    contract: Contract,
    *,
    threads: int = 1,
    said: Callable[[str], None],
) -> Accuracy:
    """Run both models on every labelled file.

    Raises:
        UsageError: the model gives no scores of classes, a label is beyond them, or a file holds several images.
        BackendError: a model does not run.
    """
    output = _scores(contract.outputs)
    answers: tuple[dict[str, Answer], dict[str, Answer]] = {}, {}
    wanted = [index for index, name in enumerate(files.names) if name in labels]
    with (
        opened(DEFAULT, original, Options(threads=threads)) as first,
        opened(DEFAULT, deployed, Options(threads=threads, precision="int8")) as second,
    ):
        for count, index in enumerate(wanted, 1):
            name, feeds = files.names[index], files[index]
            said(f"top-1, {count} of {len(wanted)}")
            with activity.doing(f"asking both models about {name!r}"):
                for run, known in ((first, answers[0]), (second, answers[1])):
                    known[name] = _answer(run, feeds, output.name, name, labels[name])
    return paired(labels, *answers)


def _scores(outputs: tuple[TensorSpec, ...]) -> TensorSpec:
    """Find the output that holds a score for each class of each image.

    Raises:
        UsageError: there is none.
    """
    for port in outputs:
        if len(port.shape) == 2 and np.dtype(port.dtype).kind == "f" and port.shape[1] != 1:
            return port
    shapes = ", ".join(f"{port.name} {'x'.join(map(str, port.shape))}" for port in outputs)[:300]
    raise UsageError(f"--labels: expected an output with the scores of classes, images x classes; got {shapes}")


def _answer(run: Run, feeds: Feeds, output: str, name: str, label: int) -> Answer:
    scores = run(feeds)[output]
    if len(scores) != 1:
        raise UsageError(f"--labels: expected one image in {name}, got {len(scores)}; put each into a file of its own")
    if label >= scores.shape[1]:
        raise UsageError(
            f"--labels: {name} has the label {label}, and {output} scores the classes 0 to {scores.shape[1] - 1}"
        )
    given = hashlib.sha256()
    for key in sorted(feeds):
        given.update(key.encode())
        given.update(feeds[key].tobytes())
    return Answer(int(scores[0].argmax()), given.hexdigest())
