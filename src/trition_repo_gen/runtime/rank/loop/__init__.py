"""The serving loop: which step all ranks of a group run next, and what becomes of their sequences."""
