"""A gradient that a user brings: what does not fit the model, and the attack."""
