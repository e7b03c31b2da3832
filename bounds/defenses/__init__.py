"""One specification for each defense, and nothing else."""
