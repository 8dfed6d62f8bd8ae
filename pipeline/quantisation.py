"""What the manifest records of a model in int8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from attn_export.deploy_tests.parity.accuracy import Accuracy
from attn_export.deploy_tests.parity.centred import OutputImages
from attn_export.deploy_tests.parity.compare import Parity
from attn_export.pipeline import int8
from attn_export.pipeline.int8 import Int8Inputs, Int8Model
from attn_export.types import JsonDict


def quantisation(made: Int8Model, inputs: Int8Inputs, parity: Parity, accuracy: Accuracy | None) -> JsonDict:
    """Give how it was made, what it is held to, what it keeps, and what stayed in float and why."""
    count, floats = int8.sites(made.quantised)
    original = parity.centred[0]
    return {
        "meaning": int8.MEANING,
        "limit_db": made.asked.least_snr,
        "top1_drop": made.asked.top1_drop,
        "method": made.quantised.method,
        "unsigned": made.unsigned,
        "calibration": inputs.split.calibration.record(),
        "held_out": inputs.split.held_out.record(),
        "figures": [figures(one) for one in original.outputs],
        "accuracy": accuracy.to_dict() if accuracy else None,
        "ratio": asdict(made.quantised.ratio) if made.quantised.ratio else None,
        "int8_sites": count,
        "float_sites": [{"node": node, "op": op, "reason": reason} for node, op, reason in floats],
        "front": [asdict(point) for point in made.quantised.front],
        "left_out": [*parity.left_out, *original.left_out],
        "notes": [*made.quantised.notes, *made.clipped],
    }


def converted(made: Int8Model, inputs: Int8Inputs, parity: Parity, floats: Mapping[str, str]) -> JsonDict:
    """Give the same of the int8 model in another format, in which some more layers are ``floats``."""
    own = quantisation(made, inputs, parity, None)
    ops = {site.node: site.op for site in made.quantised.sites}
    more = [{"node": node, "op": ops[node], "reason": reason} for node, reason in floats.items()]
    return {
        **own,
        "ratio": None,
        "int8_sites": own["int8_sites"] - len(more),
        "float_sites": [*own["float_sites"], *more],
        "front": [],
    }


def figures(one: OutputImages) -> JsonDict:
    """Give what one output keeps."""
    return {
        "output": one.output,
        "share": one.share,
        "images": len(one.images),
        "median_db": one.median_db,
        "worst_db": one.worst.snr_db,
        "worst_image": one.worst.name,
        "agreeing": one.agreeing[0] if one.agreeing else None,
    }
