"""The limit of all estimators as d and m grow at a fixed number of neurons per dimension: ``state_evolution``."""
