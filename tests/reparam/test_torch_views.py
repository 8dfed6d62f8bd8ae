"""What is new may lie in memory in another order than what it stands for, and a view behind it still works.

ACmix also makes positions of its input's own type, which tracing writes down as float32.
"""

from __future__ import annotations

from attn_export.export.sources.catalogue import from_spec
from attn_export.mechanisms import MECHANISMS
from attn_export.reparam.fuse_torch import fuse_module


def test_a_view_of_what_was_fused_copies_where_it_must() -> None:
    subject = from_spec("acmix", MECHANISMS["acmix"], "test")
    fusion = fuse_module(subject.module, tuple(subject.example().values()))
    assert fusion.sites
    assert fusion.certificate.ok
