"""Figures from saved records."""
