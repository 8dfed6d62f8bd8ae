"""What can be collapsed: one pattern a file, each a function from a module to an equal, smaller one."""

from attn_export._shelf import Shelf
from attn_export.reparam.rule import Rule

RULES: Shelf[Rule] = Shelf("attn_export.reparam.rules", "RULE", "fusion rule", families=False)
