"""What a target refuses, casts, splits or does not fuse: one file a target, each a list of rules about graphs."""

from attn_export.export.lint._rule import Rule
from attn_export.registry import Registry

#: The rules by target.
RULES: Registry[list[Rule]] = Registry("attn_export.export.lint", "RULES", "lint target", families=False)
