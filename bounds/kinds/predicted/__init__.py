"""PREDICTED and FLOOR: first-order asymptotics of the named estimator, and its limit."""
