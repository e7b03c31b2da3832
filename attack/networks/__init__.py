"""The networks that a client may run."""
