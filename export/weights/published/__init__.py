"""Key maps: under which names others publish the weights of an entry, and which option makes it the same function.

A map is a ``Source``: what shows it, old names to new, the conversion of tensors, and the arguments that the file
tells. It stands here, and not with the entry, where it says nothing about the mechanism, only about somebody's names.

| file | entries |
|---|---|
| ``gates`` | gates of channels and pixels |
| ``attention`` | attention on tokens and maps |
| ``convolutions`` | convolutions and the blocks around them |
| ``mixers`` | networks of linear layers and filters |
| ``branches`` | blocks that are trained with several branches |
"""

from __future__ import annotations

from collections.abc import Mapping

from attn_export.export.weights.published import attention, branches, convolutions, gates, mixers
from attn_export.mechanisms.spec import Source, Spec

#: By entry, then by the name that ``--variant`` takes.
MAPS: Mapping[str, Mapping[str, Source]] = {
    **gates.MAPS,
    **attention.MAPS,
    **convolutions.MAPS,
    **mixers.MAPS,
    **branches.MAPS,
}


def sources(entry: str, spec: Spec) -> Mapping[str, Source]:
    """Give every published implementation of an entry that is known: those of its Spec, then those of the key maps."""
    return {**spec.sources, **MAPS.get(entry, {})}
