"""After fusing, the sites are left to the certificate, and every other constant and attribute is audited."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest

from attn_export.export.audit.constants import Auditor, Known, known
from attn_export.export.audit.fused import auditor_of_fused, written
from attn_export.export.graph.index import GraphIndex, find, set_attribute, set_tensor
from attn_export.export.mutants.catalogue import mutations
from attn_export.export.onnx.exported import Exported
from attn_export.export.onnx.simplify import simplify
from attn_export.export.onnx.torch_export import export
from attn_export.export.sources.catalogue import from_spec
from attn_export.mechanisms import MECHANISMS
from attn_export.reparam.fuse_onnx import fuse_graph

WEIGHT_FAULTS = ("weight zeroed", "one weight +1 %", "one weight -1 %", "two channels swapped", "bias dropped")


@cache
def made(name: str) -> tuple[Known, onnx.ModelProto, onnx.ModelProto, Auditor, onnx.ModelProto]:
    subject = from_spec(name, MECHANISMS[name], "test")
    plain = export(subject)
    fusion = fuse_graph(plain.model)
    assert fusion.sites
    wanted = known(subject.module)
    tier = auditor_of_fused(wanted, plain.model, fusion.model)
    return wanted, plain.model, fusion.model, tier, simplify(Exported(fusion.model, plain.contract)).model


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("name", ["repvgg", "acmix"])
def test_a_clean_fused_graph_has_no_findings_and_something_was_audited(name: str) -> None:
    _, _, fused, tier, final = made(name)
    assert tier(fused) == ""
    assert tier(final) == ""
    audits = tier.audits(final)
    assert set(audits) == {"outside_fused_sites", "constants", "attributes"}
    assert all(audit.checked for audit in audits.values())


@pytest.mark.parametrize("name", ["repvgg", "acmix"])
def test_every_weight_fault_planted_after_fusing_is_found(name: str) -> None:
    *_, tier, final = made(name)
    injected = [mutation for mutation in mutations(final) if mutation.kind in WEIGHT_FAULTS]
    assert injected
    assert [m.name for m in injected if not tier(m.of(final))] == []


def test_a_fuser_that_touches_what_it_does_not_fuse_is_found() -> None:
    wanted, plain, fused, _, _ = made("repvgg")
    own = written(fused, plain)
    index = GraphIndex(fused)
    head = next(name for name in index.floats() if all(n.output[0] not in own for n in index.readers[name]))
    changed = copied(fused)
    value = index.array(head).copy()
    value.ravel()[0] = np.nextafter(value.ravel()[0], np.float32(9))
    set_tensor(changed.graph, head, value)
    assert head in auditor_of_fused(wanted, plain, changed)(changed)


def test_a_fuser_that_changes_an_attribute_elsewhere_is_found() -> None:
    wanted, plain, fused, _, _ = made("acmix")
    own = written(fused, plain)
    node = next(n for n in fused.graph.node if n.op_type == "Softmax" and n.output[0] not in own)
    changed = copied(fused)
    set_attribute(changed.graph.node[find(changed.graph, node.output[0])], "axis", 1)
    assert "axis" in auditor_of_fused(wanted, plain, changed)(changed)
