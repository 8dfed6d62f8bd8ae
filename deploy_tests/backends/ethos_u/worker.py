"""The process that Vela compiles in, behind the quantiser where the file computes in float32.

python -m attn_export.deploy_tests.backends.ethos_u.worker FOLDER
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attn_export.deploy_tests.compiling import child
from attn_export.deploy_tests.refusal import Complaint, RefusedError
from attn_export.types import Feeds, JsonDict

MODEL, OUT = "model.tflite", "out"
WHO = "Arm's Vela"
_ERROR = re.compile(r"^Error:? (?P<why>.+)", re.MULTILINE)


def main(folder: Path) -> None:
    """Compile what ``folder`` asks for."""
    child.work(folder, build)


def build(folder: Path, request: JsonDict) -> JsonDict:
    """Bring the file to int8 where it is not, and compile it.

    Raises:
        RefusedError: the quantiser or Vela says no.
    """
    from ai_edge_litert.interpreter import Interpreter
    from ethosu.vela import vela

    source, feeds = Path(request["model"]), child.load(folder / child.FEEDS)
    interpreter = Interpreter(str(source), num_threads=1)
    details = interpreter.get_input_details()
    sizes = [[int(size) for size in one["shape"]] for one in details]
    quantized = any(str(one["dtype"]).find("int8") >= 0 for one in interpreter.get_tensor_details())
    model = folder / MODEL
    if quantized:
        shutil.copyfile(source, model)
    else:
        _quantize(source, model, interpreter, [one for one in feeds if _shapes(one) == sizes])
    words = [str(model), "--accelerator-config", request["chip"], "--output-dir", str(folder / OUT)]
    try:
        vela.main([*words, "--verbose-performance", "--show-cpu-operations"])
    except SystemExit as error:  # its parser of options, and some refusals
        if error.code:
            raise _refused(source, folder, f"it ended with code {error.code}") from error
    except Exception as error:  # Vela's errors share no base class with those of its core
        raise _refused(source, folder, f"{type(error).__name__}: {error}") from error
    names = list(feeds[0]) if feeds else [str(one["name"]) for one in details]
    return {"sizes": dict(zip(names, sizes, strict=True)), "quantized_here": not quantized}


def _shapes(feeds: Feeds) -> list[list[int]]:
    return [list(array.shape) for array in feeds.values()]


def _quantize(source: Path, into: Path, interpreter: Any, feeds: Sequence[Feeds]) -> None:
    """Quantise weights and activations to int8, the ranges taken from inputs in the model's order.

    Raises:
        RefusedError: there are none of the file's sizes, or the quantiser breaks.
    """
    from ai_edge_quantizer import quantizer, recipe

    if not feeds:
        complaint = Complaint("", "", "there are no inputs of the file's sizes to take ranges from")
        raise RefusedError(f"{WHO} needs int8, and {source} computes in float32", "start", [complaint])
    signature, ports = next(iter(interpreter.get_signature_list().items()))
    # ``args_10`` comes behind ``args_9``: by number, not by letter.
    names = sorted(ports["inputs"], key=lambda name: (len(name), name))
    data = {signature: [dict(zip(names, one.values(), strict=True)) for one in feeds]}
    try:
        maker = quantizer.Quantizer(str(source))
        maker.load_quantization_recipe(recipe.static_wi8_ai8())
        maker.quantize(maker.calibrate(data)).export_model(str(into))
    except Exception as error:  # it raises whatever it meets
        complaint = Complaint("", "", f"{type(error).__name__}: {str(error).strip().splitlines()[0] or 'no reason'}")
        raise RefusedError(f"AI Edge Quantizer does not bring {source} to int8", "start", [complaint]) from error


def _refused(source: Path, folder: Path, otherwise: str) -> RefusedError:
    sys.stdout.flush()
    sys.stderr.flush()
    found = [match["why"].strip() for match in _ERROR.finditer(child.said(folder))]
    complaints = [Complaint("", "", why) for why in dict.fromkeys(found)] or [Complaint("", "", otherwise)]
    return RefusedError(f"{WHO} refuses {source}", "build", complaints)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
