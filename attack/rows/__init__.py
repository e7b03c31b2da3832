"""Attacks on the first layer's gradient."""
