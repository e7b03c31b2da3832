"""Every defense on every client: against automatic differentiation written out, one sample at a time (``clients.py``)."""

from __future__ import annotations

import pytest
import torch
from clients import CASES, GROUPS, SEED, B, Case, D, M, X, Y, case, expected, members
from scipy import stats

from attack import TwoLayerNet, observe, observe_first_layer
from attack.client import Client
from attack.networks.deep import DeepNet
from bounds import DEFENSES, DPSGD, Dropout, GradientNoise, LocalAggregation, NoDefense, StochasticRounding

NAMES = tuple(f"{i}-{type(member).name}" for i, member in enumerate(members(1.0)))


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {name: case(name) for name in CASES}


def test_the_members_cover_every_family() -> None:
    assert {type(member) for member in members(1.0)} == set(DEFENSES)


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
@pytest.mark.parametrize("name", CASES)
def test_every_defense_on_every_client(cases: dict[str, Case], name: str, index: int) -> None:
    """To 1e-10 of the largest entry. And the defense does something: a forgotten one would pass only where it is off."""
    found, written = cases[name], cases[name].written
    defense = members(written.size)[index]
    seen, wanted = found.observe(defense).gradient, expected(defense, written)
    assert seen.shape == wanted.shape == found.client().entries.shape
    torch.testing.assert_close(seen, wanted, rtol=1e-10, atol=1e-10 * float(wanted.abs().max()))
    changed = float((seen - found.observe(NoDefense()).gradient).norm())
    if type(defense).name not in ("none", "secure_aggregation"):
        assert changed > 0.01 * float(seen.norm())


@pytest.mark.parametrize("name", CASES)
def test_factors_norms_and_parts(cases: dict[str, Case], name: str) -> None:
    client, written = cases[name].client(), cases[name].written
    singles = torch.stack([written.single(i) for i in range(B)])
    torch.testing.assert_close(client.sample_norms(), singles.flatten(1).norm(dim=1), rtol=1e-11, atol=0)
    factors = torch.tensor([0.5, -2.0, 0.0], dtype=torch.float64)
    weighted = torch.einsum("i,i...->...", factors, singles)
    torch.testing.assert_close(client.gradient(factors), weighted, rtol=1e-10, atol=1e-14)
    part = client.part(torch.tensor([2, 0]))
    assert (part.samples, client.samples, part.units) == (2, B, M)
    torch.testing.assert_close(part.gradient(), singles[2] + singles[0], rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(part.sample_norms(), client.sample_norms()[[2, 0]], rtol=1e-11, atol=0)
    assert client.norms == pytest.approx(X.norm(dim=1).tolist())


def _two_ways(layer: str) -> tuple[Client, Client]:
    """The closed forms and autograd, of the same network."""
    two = TwoLayerNet.sample(D, M, "gelu", seed=9)
    return two.client(X, Y, layer), DeepNet.carrying(two, 0).client(X, Y, layer)


@pytest.mark.parametrize("layer", ["output", "hidden"])
@pytest.mark.parametrize("shared", [False, True])
def test_masks_parts_and_local_steps_together(layer: str, shared: bool) -> None:
    """No defense asks for them at once; closed forms and autograd agree all the same."""
    kept = (
        torch.rand(1 if shared else B, M, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        > 0.3
    )
    chosen, batches = torch.tensor([2, 1]), [torch.tensor([0, 1]), torch.tensor([1]), torch.tensor([0])]
    sums, norms = [], []
    for client in _two_ways(layer):
        client = client.masked(kept.double(), 0.7).part(chosen)
        sums.append(client.local_sum(batches, 0.5))
        norms.append(client.sample_norms())
    torch.testing.assert_close(*sums, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(*norms, rtol=1e-11, atol=0)


@pytest.mark.parametrize("layer", ["output", "hidden"])
def test_a_second_mask_comes_on_top_of_the_first(layer: str) -> None:
    drawn = torch.rand(2, B, M, generator=torch.Generator().manual_seed(1), dtype=torch.float64) > 0.3
    first, second = drawn[0, :1].double(), drawn[1].double()
    for client in _two_ways(layer):
        twice = client.masked(first, 0.7).masked(second, 0.5).gradient()
        torch.testing.assert_close(
            twice, client.masked(first * second, 0.35).gradient(), rtol=1e-12, atol=1e-16
        )
        assert not torch.equal(twice, client.masked(second, 0.5).gradient())


@pytest.mark.parametrize("name", CASES)
def test_a_client_is_a_value(cases: dict[str, Case], name: str) -> None:
    """Variants and results leave the client, and the network's weights, as they were."""
    client = cases[name].client()
    before = client.gradient().clone()
    client.gradient().zero_()
    client.local_sum([torch.arange(B)] * 3, 0.5)
    client.masked(torch.zeros(1, M, dtype=torch.float64), 0.5).gradient()
    client.part(torch.tensor([0])).gradient()
    assert torch.equal(client.gradient(), before)
    assert not client.gradient().requires_grad
    assert torch.equal(cases[name].client().gradient(), before)


@pytest.mark.parametrize("kind", ["two-layer", "deep"])
@pytest.mark.parametrize("layer", ["output", "hidden"])
def test_single_precision_is_kept(kind: str, layer: str) -> None:
    two = TwoLayerNet.sample(D, M, "gelu", seed=9, dtype=torch.float32)
    net = two if kind == "two-layer" else DeepNet.standard(two, 1)
    watch = observe if layer == "output" else observe_first_layer
    for defense in members(0.1):
        seen = watch(defense, net, X, Y, SEED, GROUPS).gradient
        assert seen.dtype == torch.float32 and bool(torch.isfinite(seen).all())
    assert net.client(X, Y, layer).sample_norms().dtype == torch.float64


# --- moments ----------------------------------------------------------------------------------------------------------


def test_the_layers_have_noise_of_their_own() -> None:
    """d = 1, so that both gradients have m = 20 000 entries: noise and rounding of the two are uncorrelated (5 standard
    errors, seed 4); with the same sub-key they would be the same."""
    m, one = 20_000, torch.ones(1, 1, dtype=torch.float64)
    net = TwoLayerNet.sample(1, m, seed=2)
    clean = [
        watch(NoDefense(), net, one, [2.0]).gradient.flatten() for watch in (observe, observe_first_layer)
    ]
    for defense in (GradientNoise(1.0), DPSGD(1e6, 1e-3, per_sample=False)):
        noise = [
            watch(defense, net, one, [2.0], SEED).gradient.flatten() - g
            for watch, g in zip((observe, observe_first_layer), clean, strict=True)
        ]
        assert abs(float(torch.corrcoef(torch.stack(noise))[0, 1])) < 5 / m**0.5
    # as large a step as no entry reaches: what is left is the draw alone
    up = [
        watch(StochasticRounding(float(g.abs().max()) * 2), net, one, [2.0], SEED).gradient.flatten() != 0
        for watch, g in zip((observe, observe_first_layer), clean, strict=True)
    ]
    assert not torch.equal(*up)


def test_dp_sgd_on_the_first_layer() -> None:
    """m d = 40 000 entries: standard deviation z C of the noise (chi-square at 1e-4, seed 1), whatever their size is."""
    net = TwoLayerNet.sample(20, 2000, seed=3)
    features, y = torch.eye(20, dtype=torch.float64)[:2], [1.0, -1.0]
    client = net.client(features, y, "hidden")
    C = float(client.sample_norms().mean())
    clean = client.gradient(torch.clamp(C / client.sample_norms(), max=1.0))
    noise = (observe_first_layer(DPSGD(C, 0.7), net, features, y, seed=1).gradient - clean) / (0.7 * C)
    low, high = stats.chi2.ppf([5e-5, 1 - 5e-5], noise.numel()) / noise.numel()
    assert low < float(noise.square().mean()) < high
    assert float(client.sample_norms().min()) < C < float(client.sample_norms().max())


@pytest.mark.parametrize("per_sample", [False, True])
def test_one_network_is_dropped_whatever_is_observed(per_sample: bool) -> None:
    """The mask belongs to the forward pass: a unit that it silences has no output gradient and no row."""
    net = TwoLayerNet.sample(D, 2000, "softplus", seed=3)
    defense = Dropout(0.4, per_sample)
    outer, rows = (watch(defense, net, X, Y, seed=1).gradient for watch in (observe, observe_first_layer))
    silent = outer == 0
    assert torch.equal(silent, (rows == 0).all(dim=1))
    low, high = stats.binom.ppf([5e-5, 1 - 5e-5], 2000, 0.4 ** (B if per_sample else 1))
    assert low <= int(silent.sum()) <= high


def test_rounding_of_the_first_layer_is_unbiased() -> None:
    """The mean over 400 draws (seeds 0 to 399) within five standard errors in each of 246 entries."""
    net = TwoLayerNet.sample(D, M, "gelu", seed=9)
    clean = observe_first_layer(NoDefense(), net, X, Y).gradient
    step = float(clean.abs().max()) / 3
    draws = torch.stack(
        [observe_first_layer(StochasticRounding(step), net, X, Y, seed).gradient for seed in range(400)]
    )
    part = torch.remainder(clean / step, 1.0)
    error = step * torch.sqrt(part * (1 - part) / 400)
    assert float(((draws.mean(dim=0) - clean).abs() - 5 * error).max()) < 1e-12


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "net", [TwoLayerNet.sample(D, M), DeepNet.carrying(TwoLayerNet.sample(D, M), 1)], ids=["two", "deep"]
)
def test_what_no_client_can_compute(net: TwoLayerNet | DeepNet) -> None:
    with pytest.raises(ValueError, match="layer must be one of output, hidden; got 'first'"):
        net.client(X, Y, "first")
    with pytest.raises(ValueError, match=r"y must have shape \(B,\) = \(3,\); got \(2,\)"):
        net.client(X, Y[:2])
    with pytest.raises(ValueError, match="finite rows of positive norm"):
        net.client(0 * X, Y)
    with pytest.raises(ValueError, match="norms must have batch_size = 3 entries; got 2"):
        observe(NoDefense(), net, X, Y, norms=(1.0, 1.0))


def test_what_has_no_client_is_no_network() -> None:
    with pytest.raises(TypeError, match="net must be a network with a client, such as a TwoLayerNet; got 3"):
        observe(NoDefense(), 3, X, Y)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["two-layer", "deep"])
def test_local_steps_need_a_derivative(kind: str) -> None:
    net: TwoLayerNet | DeepNet
    two = net = TwoLayerNet.sample(D, M, lambda t: t / (1 + abs(t)), seed=1)
    if kind == "deep":
        net = DeepNet.standard(two, 1)
    with pytest.raises(ValueError, match="has no derivative"):
        observe(LocalAggregation(3, 0.5), net, X, Y)
    clean = observe(NoDefense(), net, X, Y).gradient
    torch.testing.assert_close(observe(LocalAggregation(3, 0.0), net, X, Y).gradient, 3 * clean)
