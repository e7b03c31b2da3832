"""The tensor attack: moments, span, core, decomposition."""
