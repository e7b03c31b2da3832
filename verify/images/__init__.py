"""Attacks on batches of pictures, measured: what is asked, one trial, its record, and the table."""
