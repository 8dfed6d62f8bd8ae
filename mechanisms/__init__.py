"""WHAT is deployed: PyTorch modules, one mechanism a file, in families, each with a Spec.

>>> "se" in MECHANISMS
True
>>> MECHANISMS.entry("se").family
'attention'
"""

from attn_export.mechanisms.spec import Spec
from attn_export.registry import Registry

MECHANISMS: Registry[Spec] = Registry("attn_export.mechanisms", "MECHANISM", "mechanism", families=True)
