"""PREDICTED at every number of neurons for each dimension: where the span is lost, and how near it is found above."""
