"""LOWER: what no attack on the gradient with respect to the output weights can go below, at finite d and m."""
