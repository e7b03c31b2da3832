"""One judge for each kind of statement."""
