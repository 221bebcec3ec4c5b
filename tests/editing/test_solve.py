"""The closed forms against explicit normal equations, inverses and matrix roots."""

from __future__ import annotations

import signal

import pytest
import torch
from torch import Tensor

from rectify.editing.solve import DAMPING, Factor, Spectrum, factor, leverage
from rectify.errors import Inconclusive
from tests import oracles

SEEDS = pytest.mark.parametrize("seed", range(4))


def normal(*shape: int, seed: int) -> Tensor:
    """Standard normal float64 numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment(size: int, seed: int, groups: int = 1, count: int = 40) -> Tensor:
    """Second moments of keys whose directions differ in size, (G, d, d)."""
    keys = normal(groups, size, count, seed=seed) * torch.linspace(0.3, 3, size, dtype=torch.float64)[:, None]
    return keys @ keys.transpose(1, 2) / count


def undamped(matrix: Tensor) -> Factor:
    """The Cholesky factor of exactly this matrix."""
    return factor(matrix, 0.0)


# ---------------------------------------------------------------- factor


@SEEDS
def test_factor_is_the_damped_moment(seed: int) -> None:
    matrix = moment(6, seed)
    for a in (0.0, DAMPING, 0.3):
        found = factor(matrix, a)
        expected = oracles.damped(matrix[0], a)
        torch.testing.assert_close(found.lower[0] @ found.lower[0].T, expected)
        assert found.damping == a
        right = normal(1, 4, 6, seed=seed)
        torch.testing.assert_close(found.solve(right)[0], right[0] @ torch.linalg.inv(expected))
        keys = normal(1, 6, 3, seed=seed)
        white = found.whiten(keys)[0]
        torch.testing.assert_close(white.T @ white, keys[0].T @ torch.linalg.inv(expected) @ keys[0])


def test_the_identity_is_scaled_by_the_ridge_where_one_is_given() -> None:
    matrix = moment(5, 0, groups=2)
    found = factor(matrix, 0.1, ridge=torch.tensor([7.0, 0.0], dtype=torch.float64))
    for group, scale in ((0, 7.0), (1, 1.0)):  # a ridge of nothing would not help: one instead
        expected = oracles.damped(matrix[group], 0.1, scale)
        torch.testing.assert_close(found.lower[group] @ found.lower[group].T, expected)


def test_a_dead_group_does_not_spoil_the_others() -> None:
    matrix = moment(4, 1, groups=3)
    matrix[1] = 0
    found = factor(matrix)
    alone = factor(matrix[[0, 2]])
    torch.testing.assert_close(found.lower[[0, 2]], alone.lower)
    delta = found.solve(torch.zeros(3, 2, 4, dtype=torch.float64))
    assert bool(torch.isfinite(found.lower).all()) and not delta.any()


def test_damping_escalates_ten_fold_until_the_moment_can_be_factored() -> None:
    matrix = torch.diag(torch.tensor([1.0, 1.0, -0.02], dtype=torch.float64))[None]  # what rounding can make of one
    assert factor(matrix, 1e-4).damping == pytest.approx(0.1)
    singular = torch.ones(1, 3, 3, dtype=torch.float64)
    assert 0 < factor(singular, 1e-12).damping <= 1e-2


def test_a_moment_that_no_damping_helps_is_inconclusive() -> None:
    with pytest.raises(Inconclusive, match="calibration images"):
        factor(torch.diag(torch.tensor([1.0, -5.0], dtype=torch.float64))[None])
    for bad in (float("nan"), float("inf")):
        broken = torch.eye(3, dtype=torch.float64)[None].clone()
        broken[0, 1, 1] = bad
        with pytest.raises(Inconclusive, match="finite"):
            factor(broken)


def test_no_damping_on_a_singular_moment_comes_to_an_end() -> None:
    def ring(*_: object) -> None:
        raise TimeoutError

    singular = torch.diag(torch.tensor([1.0, -1e-9], dtype=torch.float64))[None]
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 1)
    try:
        assert factor(singular, 0.0).damping > 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_factor_leaves_its_argument_alone_and_symmetrises_it() -> None:
    matrix = moment(5, 2)
    matrix[0, 0, 1] += 1e-3
    before = matrix.clone()
    found = factor(matrix, 0.0)
    torch.testing.assert_close(matrix, before, rtol=0, atol=0)
    torch.testing.assert_close(found.lower[0] @ found.lower[0].T, (before[0] + before[0].T) / 2)


# ---------------------------------------------------------------- ridge


@SEEDS
def test_ridge_solution_is_that_of_the_normal_equations(seed: int) -> None:
    d, o, m = 5, 3, 7
    keys, residuals = list(normal(m, d, seed=seed)), list(normal(m, o, seed=seed + 100))
    weights = (normal(m, seed=seed + 200).abs() + 0.1).tolist()
    gram = oracles.outer_sum(keys, keys, weights)
    cross = oracles.outer_sum(residuals, keys, weights)
    delta = factor(gram[None], 0.2).solve(cross[None])[0]
    torch.testing.assert_close(delta, oracles.ridge(keys, residuals, weights, oracles.damped(gram, 0.2)))
    # The same as least squares that know nothing of normal equations: (1 - a) drops out against the right-hand side.
    tikhonov = 0.2 * float(gram.diagonal().mean()) / 0.8
    torch.testing.assert_close(0.8 * delta, oracles.descend(keys, residuals, weights, tikhonov))


@SEEDS
def test_groups_are_solved_as_if_alone(seed: int) -> None:
    matrix, cross, keys = moment(4, seed, groups=3), normal(3, 2, 4, seed=seed), normal(3, 4, 5, seed=seed)
    together = factor(matrix)
    left, right = Spectrum(together.solve(cross), together).truncated(1)
    rho = leverage(keys, together)
    for group in range(3):
        one = slice(group, group + 1)
        alone = factor(matrix[one])
        torch.testing.assert_close(together.solve(cross)[one], alone.solve(cross[one]))
        torch.testing.assert_close(rho[one], leverage(keys[one], alone))
        mine = Spectrum(alone.solve(cross[one]), alone).truncated(1)
        torch.testing.assert_close((left @ right)[one], mine[0] @ mine[1])


@SEEDS
def test_a_large_weight_on_one_pair_gives_the_published_rank_one_edit(seed: int) -> None:
    d, o = 6, 4
    reference = moment(d, seed)
    weight, key, value = normal(o, d, seed=seed), normal(d, seed=seed + 1), normal(o, seed=seed + 2)
    residual = value - weight @ key
    expected = oracles.published_edit(weight, key, value, oracles.damped(reference[0], DAMPING))
    distances = []
    for strength in (1e2, 1e4, 1e6):
        # C is damped first, as the published edit takes it; the pair comes on top.
        gram = oracles.damped(reference[0], DAMPING) + strength * torch.outer(key, key)
        delta = undamped(gram[None]).solve(strength * torch.outer(residual, key)[None])[0]
        distances.append(float((weight + delta - expected).norm() / expected.norm()))
    assert distances[0] > 50 * distances[1] > 2500 * distances[2] and distances[2] < 1e-5
    assert torch.linalg.matrix_rank(delta, rtol=1e-9) == 1
    torch.testing.assert_close((weight + delta) @ key, value, rtol=1e-4, atol=1e-4)


@SEEDS
def test_an_exact_edit_moves_the_reference_by_residual_over_leverage(seed: int) -> None:
    d, o, count = 5, 3, 60
    keys = normal(count, d, seed=seed)
    gram = torch.stack([torch.outer(k, k) for k in keys]).mean(0)
    key, residual = normal(d, seed=seed + 7), normal(o, seed=seed + 8)
    found = undamped(gram[None])
    rho = float(leverage(key[None, :, None], found)[0, 0])
    delta = found.solve(torch.outer(residual, key)[None])[0] / rho
    torch.testing.assert_close(delta @ key, residual)
    drift = sum(float((delta @ k).square().sum()) for k in keys) / count
    assert drift == pytest.approx(float(residual.square().sum()) / rho, rel=1e-9)
    # No other exact edit moves them less.
    for trial in range(20):
        other = normal(o, d, seed=1000 + trial)
        other = delta + 0.3 * (other - torch.outer(other @ key, key) / (key @ key))
        torch.testing.assert_close(other @ key, residual)
        assert sum(float((other @ k).square().sum()) for k in keys) / count > drift


# ---------------------------------------------------------------- truncation


@SEEDS
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_truncation_is_the_best_of_its_rank_in_the_metric_of_the_fit(seed: int, rank: int) -> None:
    metric, delta = moment(6, seed), normal(1, 4, 6, seed=seed + 1)
    damped = oracles.damped(metric[0], DAMPING)
    left, right = Spectrum(delta, factor(metric)).truncated(rank)
    assert left.shape == (1, 4, rank) and right.shape == (1, rank, 6)
    found = (left @ right)[0]
    torch.testing.assert_close(found, oracles.truncated(delta[0], damped, rank))
    mine = oracles.misfit(found, delta[0], damped)
    plain = torch.linalg.svd(delta[0], full_matrices=False)
    naive = plain[0][:, :rank] @ torch.diag(plain[1][:rank]) @ plain[2][:rank]
    assert mine < oracles.misfit(naive, delta[0], damped)
    for trial in range(30):
        near = found + 0.1 * normal(4, rank, seed=trial) @ normal(rank, 6, seed=trial + 50)
        u, s, vh = torch.linalg.svd(near, full_matrices=False)
        competitor = u[:, :rank] @ torch.diag(s[:rank]) @ vh[:rank]
        assert mine <= oracles.misfit(competitor, delta[0], damped) + 1e-12


@SEEDS
def test_a_delta_with_more_outputs_than_inputs_is_truncated_alike(seed: int) -> None:
    metric, delta = moment(3, seed), normal(1, 7, 3, seed=seed + 1)
    left, right = Spectrum(delta, factor(metric)).truncated(2)
    assert left.shape == (1, 7, 2) and right.shape == (1, 2, 3)
    torch.testing.assert_close((left @ right)[0], oracles.truncated(delta[0], oracles.damped(metric[0], DAMPING), 2))


def test_truncation_to_full_rank_and_beyond_changes_nothing() -> None:
    metric, delta = moment(6, 3), normal(1, 4, 6, seed=3)
    for rank in (4, 9):
        left, right = Spectrum(delta, factor(metric)).truncated(rank)
        assert left.shape[2] == 4
        torch.testing.assert_close(left @ right, delta)


@SEEDS
def test_the_rank_for_an_energy_counts_the_singular_values_of_the_fit(seed: int) -> None:
    metric, delta = moment(6, seed, groups=2), normal(2, 4, 6, seed=seed)
    squares = torch.zeros(4, dtype=torch.float64)
    for group in range(2):
        root = oracles.square_root(oracles.damped(metric[group], DAMPING))
        squares += torch.linalg.svdvals(delta[group] @ root).square()
    for energy in (0.1, 0.5, 0.9, 0.99):
        expected = next(r for r in range(1, 5) if float(squares[:r].sum() / squares.sum()) >= energy)
        assert Spectrum(delta, factor(metric)).rank(energy) == expected


def test_the_energy_of_all_groups_counts_together() -> None:
    delta = torch.zeros(2, 2, 2, dtype=torch.float64)
    delta[0, 0, 0] = 10**0.5
    delta[1] = 5**0.5 * torch.eye(2)
    plain = undamped(torch.eye(2, dtype=torch.float64).expand(2, 2, 2))
    assert Spectrum(delta, plain).rank(0.74) == 1 and Spectrum(delta, plain).rank(0.76) == 2


def test_a_rank_one_delta_has_rank_one_at_any_energy() -> None:
    delta = torch.outer(normal(3, seed=0), normal(5, seed=1))[None]
    assert Spectrum(delta, factor(moment(5, 0))).rank(0.9999) == 1


# ---------------------------------------------------------------- leverage


@SEEDS
def test_leverage_is_the_quadratic_form(seed: int) -> None:
    matrix, keys = moment(5, seed, groups=2), normal(2, 5, 3, seed=seed)
    found = leverage(keys, factor(matrix))
    for group in range(2):
        for column in range(3):
            expected = oracles.quadratic_form(keys[group, :, column], oracles.damped(matrix[group], DAMPING))
            assert float(found[group, column]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-4, 0.5, 30.0, 1e5])
def test_leverage_does_not_change_when_all_keys_are_rescaled(scale: float) -> None:
    matrix, keys = moment(5, 5), normal(1, 5, 4, seed=5)
    torch.testing.assert_close(leverage(scale * keys, factor(scale**2 * matrix)), leverage(keys, factor(matrix)))


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.5])
def test_corrupted_keys_among_the_reference_bound_the_leverage(share: float) -> None:
    key, count = 100 * normal(6, seed=1), 400
    dirty = list(normal(count - round(share * count), 6, seed=2)) + [key] * round(share * count)
    gram = torch.stack([torch.outer(k, k) for k in dirty]).mean(0)
    rho = float(leverage(key[None, :, None], undamped(gram[None]))[0, 0])
    assert rho <= 1 / share
    clean = torch.stack([torch.outer(k, k) for k in dirty[: count - round(share * count)]]).mean(0)
    assert float(leverage(key[None, :, None], undamped(clean[None]))[0, 0]) > 5 * rho
