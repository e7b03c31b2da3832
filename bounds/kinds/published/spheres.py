"""What is left of a feature for an informed adversary: the prior of the bounds that hold of every attack.

Prior: the features' Gram matrix is public, their common orientation uniform (Haar). An adversary who is told all
features but x_i knows its part in the span of the others; the rest is uniform on a sphere of dimension d - B in R^(d
- B + 1). The error averaged over networks is the same for every orientation if the attack is equivariant under
rotations.
"""

from __future__ import annotations

import numpy as np

from bounds.arrays import Array
from bounds.setting import Setting


def ambient(setting: Setting) -> int:
    """d - B + 1: of the space in which the sphere of what is left lies."""
    return setting.d - setting.B + 1


def radii(setting: Setting) -> Array:
    """Distance (B,) of each feature from the span of the others; 0 for one that lies in it."""
    gram, out = setting.gram, []
    for i in range(setting.B):
        rest = [k for k in range(setting.B) if k != i]
        part = (
            gram[rest, i] @ np.linalg.pinv(gram[np.ix_(rest, rest)], hermitian=True) @ gram[rest, i]
            if rest
            else 0.0
        )
        out.append(max(float(gram[i, i] - part), 0.0))
    return np.sqrt(out)
