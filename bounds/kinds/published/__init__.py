"""Bounds of the literature on reconstruction, read on noise on dL/da (bounds/proofs/published.md)."""
