"""The integrated attack: what its feature term does, whose feature it takes for whose, and when it does without."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from attack.image.feature_estimate import FeatureEstimate, estimate_features
from attack.image.integrated import FeatureTerm, Integrated, allowed_pairs
from attack.image.inversion import Inversion, InversionError, invert
from attack.image.matching import ImageMatching, Posed
from attack.image.observed import ImageObservation, observe_images
from attack.image.optimise import Found
from attack.networks.image.convnet import conv_net
from attack.networks.image.head import Head
from attack.networks.image.network import ImageNetwork
from attack.streams import uniform
from bounds import Defense, GradientNoise, GradientPruning, NoDefense, SignCompression
from verify.images.run import searched, with_options

SHAPE, LABELS = (1, 8, 8), torch.tensor([3, 7, 3])
NETWORK = conv_net(SHAPE, 10, channels=(4,), head=Head(m=160, features=12))
IMAGES = uniform((3, *SHAPE), 5, "test", device="cpu", dtype=torch.float32).square()
MATCHING = ImageMatching(iterations=20, tv=1e-4)


def seen_of(defense: Defense, **given: object) -> ImageObservation:
    return observe_images(defense, NETWORK, IMAGES, LABELS, scope="layer", **given)  # type: ignore[arg-type]


def estimate(
    features: torch.Tensor, limit: float = 0.0, classes: torch.Tensor | None = None, *, sized: bool = True
) -> FeatureEstimate:
    error = torch.full((len(features),), limit, dtype=torch.float64)
    distance = torch.where(error < 1, error, torch.inf)
    return FeatureEstimate(features.double(), sized, error, error, distance, classes, "likelihood")


def truth() -> torch.Tensor:
    with torch.no_grad():
        return NETWORK.features(IMAGES)


def same(one: Inversion, other: Inversion) -> bool:
    return torch.equal(one.images, other.images)


def term(of: FeatureEstimate, *, hinge: bool = True) -> FeatureTerm:
    return FeatureTerm.of(NETWORK, of, LABELS, B=3, hinge=hinge)


def test_the_term_is_zero_for_all_that_the_error_leaves_open() -> None:
    """Pictures whose mismatch is below the limit have value and slope zero; with a smaller limit neither is (the control);
    features of error 1 have none whatever the pictures."""
    other = (
        IMAGES + 0.1 * uniform(IMAGES.shape, 6, "test", device="cpu", dtype=torch.float32)
    ).requires_grad_()
    wanted = truth()
    u = term(estimate(wanted))(other)
    values = {}
    for limit in (0.0, 0.5 * float(u.detach()), 0.9, 1.0):
        value = term(estimate(wanted, limit))(other)
        (slope,) = torch.autograd.grad(value, other)
        values[limit] = (float(value.detach()), float(slope.abs().max()))
    assert values[0.0][0] > values[0.5 * float(u.detach())][0] > 0
    assert values[0.0][1] > values[0.5 * float(u.detach())][1] > 0
    assert values[0.9] == values[1.0] == (0.0, 0.0)
    assert float(term(estimate(wanted, 0.9), hinge=False)(other).detach()) == pytest.approx(float(u.detach()))


def test_lengths_and_signs_count_where_they_are_known() -> None:
    """A picture of the feature z is off from 2 z by a quarter of that one's square, from -3 z by more than all of it; their
    angle says nothing of either."""
    assert float(term(estimate(2 * truth()))(IMAGES)) == pytest.approx(1 / 4, rel=1e-5)
    wrong = -3 * truth()
    assert float(term(estimate(wrong))(IMAGES)) > 1
    assert float(term(estimate(wrong, sized=False))(IMAGES)) < 1e-6
    for worthless in (wrong, 0.01 * truth(), 0 * truth()):  # not believed, however far off
        assert float(term(estimate(worthless, limit=1.0))(IMAGES)) == 0
    one = estimate(torch.cat([truth()[:1], 0.01 * truth()[1:]]), limit=0.0)
    one.distance[1:] = torch.inf
    assert one.trusted and float(term(one)(IMAGES)) < 1e-6  # the others do not count
    angle = FeatureTerm.of(NETWORK, estimate(wrong), LABELS, B=3, hinge=True, mismatch="angle")
    assert float(angle(IMAGES)) < 1e-6


def test_a_picture_finds_its_feature_without_being_told() -> None:
    """Features in any order, with their classes or without, are those of the same pictures; two of them too. Classes that
    forbid the right pairs are not the same (the control)."""
    order = torch.tensor([2, 0, 1])
    wanted = truth()
    moved = IMAGES.flip(0)[[0, 2, 1]]
    straight = float(term(estimate(wanted))(moved))
    assert float(term(estimate(wanted[order]))(moved)) == pytest.approx(straight, rel=1e-6)
    assert float(term(estimate(wanted))(IMAGES)) < 1e-6
    assert float(term(estimate(wanted[order], classes=LABELS[order]))(IMAGES)) < 1e-6
    assert float(term(estimate(wanted[:2]))(IMAGES)) < 1e-6
    wrong = torch.tensor([7, 3, 3])  # of the first two features the classes are exchanged
    assert float(term(estimate(wanted, classes=wrong))(IMAGES)) > 1e-3


def test_classes_bind_where_they_can() -> None:
    three = truth()
    bound = allowed_pairs(estimate(three, classes=torch.tensor([7, 3, 3])), LABELS, 3)
    assert bound.tolist() == [[False, True, True], [True, False, False], [False, True, True]]
    impossible = allowed_pairs(estimate(three, classes=torch.tensor([7, 7, 3])), LABELS, 3)
    assert impossible.all() and allowed_pairs(estimate(three), LABELS, 3).all()
    assert allowed_pairs(estimate(three, classes=LABELS), None, 3).all()


def test_the_order_in_which_labels_are_told_is_that_of_the_pictures_only() -> None:
    """With labels permuted the search is posed with features permuted alike: each keeps the class of its picture."""
    seen = seen_of(GradientPruning(0.5))
    for labels in (LABELS, LABELS[[1, 0, 2]]):
        found = invert(seen, Integrated(MATCHING), labels=labels)
        assert found.labels is not None and found.labels.tolist() == labels.tolist()
        assert found.features is not None
        unit = torch.nn.functional.normalize(found.features, dim=1)
        own = torch.nn.functional.normalize(truth().double(), dim=1)
        assert float((unit @ own.T).abs().amax(dim=1).min()) > 1 - 1e-6


def test_features_help_the_search() -> None:
    """Of a pruned gradient the features found are nearer to the truth with the term than without, mean over 2 seeds of
    starts; and of two starts the better one by gradient, total variation and term is kept, the plain one as plain matching
    has it."""
    seen = seen_of(GradientPruning(0.5))

    def off(found: Inversion) -> float:
        with torch.no_grad():
            return float(term(estimate(truth(), classes=LABELS))(found.images))

    matching = dataclasses.replace(MATCHING, iterations=40)
    gains = []
    for seed in range(2):
        one, other = (
            invert(seen, a, labels=LABELS, seed=seed) for a in (matching, Integrated(matching, weight=1.0))
        )
        gains.append(np.log(off(one) / off(other)))
    assert np.mean(gains) > 0.3, gains
    two = invert(seen, Integrated(dataclasses.replace(matching, starts=2)), labels=LABELS, seed=1)
    assert two.diagnostics.objective is not None and one.diagnostics.objective is not None
    assert two.diagnostics.objective <= (one.diagnostics.objective + 0.1 * off(one)) * (1 + 1e-3)
    assert two.diagnostics.iterations == 80 and two.diagnostics.starts == 2


@pytest.mark.parametrize(("weighting", "kept"), [("theory", 1), ("fixed", 0)])
def test_pictures_that_are_off_their_features_are_not_kept(
    monkeypatch: pytest.MonkeyPatch, weighting: str, kept: int
) -> None:
    """Grey pictures are the better of two ends by gradient and much total variation, the truth by its features as well."""

    def ended(search: Posed, attack: Integrated, with_features: object, *rest: object) -> Found:
        shown = torch.full_like(IMAGES, 0.5) if with_features is None else IMAGES
        return Found((NETWORK.normalised(shown),), 0.0, 1, 1)

    monkeypatch.setattr("attack.image.integrated._descended", ended)
    attack = Integrated(dataclasses.replace(MATCHING, tv=10.0, starts=2), weighting=weighting, weight=1e4)
    found = invert(seen_of(NoDefense()), attack, labels=LABELS)
    assert found.diagnostics.start_kept == kept


def test_without_features_it_is_plain_matching_and_says_so() -> None:
    """No law of the entries, or features that are not believed: the same pictures, bit by bit; with features others (the
    control). Weighting "none" is the same, and has nothing to warn of."""
    plain = invert(seen_of(SignCompression()), MATCHING, labels=LABELS)
    without = invert(seen_of(SignCompression()), Integrated(MATCHING), labels=LABELS)
    assert same(plain, without) and without.features is None
    assert any("plain matching" in warning for warning in without.diagnostics.warnings)

    loud = seen_of(GradientNoise(0.1), relative=True)
    quiet = dataclasses.replace(loud, defense=GradientNoise(loud.defense.sigma / 3))  # type: ignore[attr-defined]
    doubted = invert(quiet, Integrated(MATCHING, source="likelihood"), labels=LABELS)
    assert same(doubted, invert(quiet, MATCHING, labels=LABELS))
    assert "no feature is believed" in doubted.diagnostics.warnings[-1]

    clean = seen_of(NoDefense())
    believed = invert(clean, Integrated(MATCHING), labels=LABELS)
    assert believed.features is not None and not same(believed, invert(clean, MATCHING, labels=LABELS))
    none = invert(clean, Integrated(MATCHING, weighting="none"), labels=LABELS)
    assert same(none, invert(clean, MATCHING, labels=LABELS)) and none.features is None


def test_features_alone_have_no_result_without_features() -> None:
    """The gradient is no part of it; one iteration with it, or a plain start, is plain matching as before (the controls)."""
    seen = seen_of(SignCompression())
    alone = Integrated(MATCHING, stages="features first", share=1.0)
    with pytest.raises(InversionError, match="no features are found: ") as error:
        invert(seen, alone, labels=LABELS)
    assert error.value.diagnostics.status == "failed" and error.value.diagnostics.labels_from == "given"
    with pytest.raises(InversionError, match="no feature is believed: "):
        invert(seen_of(NoDefense()), dataclasses.replace(alone, source="cocktail"), labels=LABELS)
    both = invert(seen, dataclasses.replace(alone, share=0.95), labels=LABELS)
    assert same(both, invert(seen, MATCHING, labels=LABELS))
    two = dataclasses.replace(alone, matching=dataclasses.replace(MATCHING, starts=2))
    assert "plain matching" in invert(seen, two, labels=LABELS).diagnostics.warnings[-1]
    with pytest.raises(InversionError, match="no features are found"):
        invert(seen, dataclasses.replace(two, plain=0), labels=LABELS)


def test_a_defect_of_a_source_is_not_taken_for_no_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network with one linear layer has none to find (the control)."""
    single = nn.Sequential(
        nn.Conv2d(SHAPE[0], 4, 3, padding=1), nn.Sigmoid(), nn.Flatten(), nn.LazyLinear(10)
    )
    single(torch.zeros(1, *SHAPE))
    bare = ImageNetwork.of(single, SHAPE)
    assert bare.attacked is None
    seen = observe_images(NoDefense(), bare, IMAGES, LABELS)
    plain = invert(seen, Integrated(MATCHING), labels=LABELS)
    assert same(plain, invert(seen, MATCHING, labels=LABELS))
    assert "no attacked layer" in plain.diagnostics.warnings[-1]

    def broken(*given: object, **options: object) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr("attack.image.integrated.estimate_features", broken)
    with pytest.raises(ValueError, match="a defect"):
        invert(seen_of(NoDefense()), Integrated(MATCHING), labels=LABELS)


def test_features_that_are_not_finite_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fixed weight too, which asks for no prediction."""
    wrong = truth()
    wrong[0, 0] = torch.nan
    monkeypatch.setattr(
        "attack.image.integrated.estimate_features", lambda *given, **options: estimate(wrong)
    )
    seen = seen_of(NoDefense())
    for weighting in ("fixed", "theory"):
        found = invert(seen, Integrated(MATCHING, weighting=weighting), labels=LABELS)
        assert same(found, invert(seen, MATCHING, labels=LABELS)) and found.features is None
        assert "not finite" in found.diagnostics.warnings[-1]
    alone = Integrated(MATCHING, weighting="fixed", stages="features first", share=1.0)
    with pytest.raises(InversionError, match="not finite"):
        invert(seen, alone, labels=LABELS)


def test_components_are_used_with_a_fixed_weight_only() -> None:
    clean = seen_of(NoDefense())
    theory = invert(clean, Integrated(MATCHING, source="cocktail"), labels=LABELS)
    assert "no feature is believed" in theory.diagnostics.warnings[-1] and theory.features is None
    fixed = invert(clean, Integrated(MATCHING, source="cocktail", weighting="fixed"), labels=LABELS)
    assert fixed.features is not None and not same(fixed, theory)


@pytest.mark.parametrize("stages", ["joint", "features first", "joint first"])
def test_every_form_makes_as_many_iterations_and_reports_them(stages: str) -> None:
    told: list[tuple[int, int, float]] = []
    matching = dataclasses.replace(MATCHING, iterations=75, starts=2, labels="joint")
    attack = Integrated(matching, stages=stages, share=1 / 3)
    found = invert(seen_of(NoDefense()), attack, progress=lambda *now: told.append(now))
    assert found.diagnostics.iterations == 150 and found.labels is not None
    done = [now[0] for now in told]
    assert done == sorted(done) and done[-1] == 150 and {now[1] for now in told} == {150}
    assert found.features is not None


def test_interrupted_it_has_no_result() -> None:
    def stop(done: int, total: int, best: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        matching = dataclasses.replace(MATCHING, iterations=50)
        invert(seen_of(NoDefense()), Integrated(matching), labels=LABELS, progress=stop)


def test_options_are_checked_and_tables_reach_those_of_the_search() -> None:
    for options, name in (
        ({"source": "magic"}, "source"),
        ({"weighting": "much"}, "weighting"),
        ({"weight": -1.0}, "weight"),
        ({"stages": "never"}, "stages"),
        ({"share": 1.5}, "share"),
        ({"plain": -1}, "plain"),
    ):
        with pytest.raises(ValueError, match=name):
            Integrated(**options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="matching"):
        Integrated(matching=Integrated())  # type: ignore[arg-type]
    changed = with_options(Integrated(weight=0.3), tv=0.5, starts=3)
    assert changed == Integrated(ImageMatching(tv=0.5, starts=3), weight=0.3)
    assert searched(changed) == ImageMatching(tv=0.5, starts=3)


def test_the_same_seed_gives_the_same_features() -> None:
    seen = seen_of(GradientNoise(0.1), relative=True)
    one, other = (estimate_features(seen, labels=LABELS, seed=4) for _ in range(2))
    assert torch.equal(one.features, other.features) and torch.equal(one.error, other.error)
