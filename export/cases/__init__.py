"""Which inputs a subject is proven on: their kinds, their sizes, and what they may cost."""
