"""How a run lives and dies: its parent, its children, its temporary files, and what it is doing right now."""
