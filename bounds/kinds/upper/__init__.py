"""UPPER: proved, with every constant."""
