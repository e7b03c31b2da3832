"""Published gradient matching, as settings of ``ImageMatching``, and what untrained networks need of it.

Published ones match a gradient as it is seen (``informed=False``); ``dataclasses.replace(..., informed=True)`` gives each of
them what the server knows of a defense. Total variation is ours everywhere: anisotropic, mean absolute differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from attack.image.matching import ImageMatching

#: Zhu, Liu, Han 2019 (arXiv 1906.08935): squared distance, L-BFGS, soft labels searched with the pictures.
DLG = ImageMatching(
    objective="squared",
    optimiser="lbfgs",
    tv=0.0,
    iterations=300,
    keep="last",
    boxed=False,
    labels="joint",
    informed=False,
)

#: Zhao, Mopuri, Bilen 2020 (arXiv 2001.02610): the label of one picture from the signs of the last layer's gradient.
IDLG = replace(DLG, labels="idlg")

#: Geiping et al. 2020 (arXiv 2003.14053), the settings of their code for a ConvNet on CIFAR-10.
INVERTING_GRADIENTS = ImageMatching(tv=1e-6, iterations=4800, keep="last", informed=False)

#: "modern" of the library breaching: the same objective, softer signs. Its start in patterns and its isotropic total
#: variation over colours are not taken over.
MODERN = ImageMatching(
    optimiser="soft_sign", schedule="cosine", warmup=50, tv=0.1, iterations=24_000, informed=False
)

#: Yin et al. 2021 (arXiv 2104.07586) as breaching has it, without statistics of batch norm, which are not seen here, and
#: without noise on the slope: squared distance, in units of the observed one's square, so that tv has another unit.
SEE_THROUGH = ImageMatching(
    objective="squared",
    optimiser="adam",
    schedule="cosine",
    warmup=50,
    tv=1e-4,
    iterations=20_000,
    labels="yin",
    informed=False,
)

#: Ours, for pictures that an untrained U-Net or deep decoder makes. On two grey patches of 16 x 16, in 150 iterations, Adam
#: on slopes was better than on their signs, and a step of .03 as good as .1 and better than .01; in 300, of 0, .01, .03 and
#: .1 this tv was the best for the U-Net with noise, which without any it learns; without noise less does as well or better.
#: Pixels, in steps of .3, were as good with noise, to 2 dB, and better by up to 7 dB without.
UNET = ImageMatching(picture="unet", tv=0.01, optimiser="adam", step=0.03, schedule="cosine")
DECODER = replace(UNET, picture="decoder")

#: Published ones by name.
PRESETS: Mapping[str, ImageMatching] = MappingProxyType(
    {
        "dlg": DLG,
        "idlg": IDLG,
        "inverting-gradients": INVERTING_GRADIENTS,
        "modern": MODERN,
        "see-through": SEE_THROUGH,
    }
)
