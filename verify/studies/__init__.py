"""What is measured beside the experiments, condition by condition."""
