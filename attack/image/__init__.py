"""Attacks on pictures, what they are made on, and the data sets they are measured on."""

from attack.image.class_fishing import ClassFishing
from attack.image.cocktail_party import CocktailParty
from attack.image.datasets import (
    ImageBatch,
    load_cifar10_binary,
    load_cifar10_python,
    load_digits,
    load_images,
    load_mnist_idx,
    load_patches,
)
from attack.image.exact_rows import ExactRows
from attack.image.feature_estimate import FeatureEstimate, estimate_features
from attack.image.integrated import Integrated
from attack.image.inversion import ImageAttack, Inversion, InversionError, invert
from attack.image.labels import recover_labels
from attack.image.matching import ImageMatching
from attack.image.metrics import image_errors
from attack.image.observed import ImageObservation, observe_images
from attack.image.picture_set import PICTURE_SETS, PictureSet, cifar10_set, mnist_set, picture_set
from attack.image.robbing_the_fed import RobbingTheFed
from attack.networks.image.network import ImageNetwork

__all__ = [
    "PICTURE_SETS",
    "ClassFishing",
    "CocktailParty",
    "ExactRows",
    "FeatureEstimate",
    "ImageAttack",
    "ImageBatch",
    "ImageMatching",
    "ImageNetwork",
    "ImageObservation",
    "Integrated",
    "Inversion",
    "InversionError",
    "PictureSet",
    "RobbingTheFed",
    "cifar10_set",
    "estimate_features",
    "image_errors",
    "invert",
    "load_cifar10_binary",
    "load_cifar10_python",
    "load_digits",
    "load_images",
    "load_mnist_idx",
    "load_patches",
    "mnist_set",
    "observe_images",
    "picture_set",
    "recover_labels",
]
