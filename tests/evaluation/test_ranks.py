"""Against scipy, one row at a time, and by hand."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from rectify.errors import UsageError
from rectify.evaluation.ranks import (
    average_ranks,
    constant_rows,
    kendall_tau_b,
    pearson,
    spearman,
    tie_share,
    top_k,
    top_k_intersection,
    zero_share,
)


def rows(ties: bool, n: int = 7, d: int = 40) -> tuple[Tensor, Tensor]:
    """Two (n, d) that correlate a little; with ties about four values each."""
    a = torch.randn(n, d, dtype=torch.float64)
    b = a + torch.randn(n, d, dtype=torch.float64)
    return (a.round(), b.round()) if ties else (a, b)


@pytest.mark.parametrize("ties", [False, True])
def test_correlations_are_scipys(ties: bool) -> None:
    a, b = rows(ties)
    for row in range(len(a)):
        one, other = a[row].numpy(), b[row].numpy()
        assert average_ranks(a)[row].tolist() == stats.rankdata(one).tolist()
        assert float(pearson(a, b)[row]) == pytest.approx(stats.pearsonr(one, other).statistic, abs=1e-12)
        assert float(spearman(a, b)[row]) == pytest.approx(stats.spearmanr(one, other).statistic, abs=1e-12)
        assert float(kendall_tau_b(a, b)[row]) == pytest.approx(stats.kendalltau(one, other).statistic, abs=1e-12)


def test_kendall_is_tau_b_by_loops() -> None:
    a, b = (x[0, :12] for x in rows(ties=True))
    agree = untied_a = untied_b = 0
    for i in range(12):
        for j in range(i):
            one, other = int((a[i] - a[j]).sign()), int((b[i] - b[j]).sign())
            agree, untied_a, untied_b = agree + one * other, untied_a + abs(one), untied_b + abs(other)
    expected = agree / (untied_a * untied_b) ** 0.5
    assert float(kendall_tau_b(a[None], b[None])) == pytest.approx(expected)


def test_rows_in_another_precision_and_order_of_memory() -> None:
    a, b = rows(ties=True)
    expected = spearman(a, b)
    torch.testing.assert_close(spearman(a.float(), b.long()), expected)
    torch.testing.assert_close(spearman(a.T.contiguous().T, b), expected)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e20 / 3])  # the mean of equal numbers need not be that number
def test_constant_rows_correlate_with_nothing_and_are_counted(value: float) -> None:
    a, b = rows(ties=False, d=43)
    a[2] = value
    b[4] = value
    for correlate in (pearson, spearman, kendall_tau_b):
        found = correlate(a, b)
        assert found[[2, 4]].tolist() == [0, 0] and bool((found[[0, 1, 3, 5, 6]] != 0).all())
    assert constant_rows(a).nonzero().flatten().tolist() == [2]


def test_a_row_with_nan_is_nan_and_the_others_are_not() -> None:
    a, b = rows(ties=False)
    a[1, 5] = torch.nan
    for correlate in (pearson, spearman):
        assert correlate(a, b).isnan().nonzero().flatten().tolist() == [1]


def test_correlations_stay_within_bounds() -> None:
    a = torch.randn(200, 3)
    assert float(pearson(a, 3 * a).max()) <= 1 and float(pearson(a, -a).min()) >= -1
    torch.testing.assert_close(spearman(a, -a), -torch.ones(200, dtype=torch.float64))


def test_top_k_breaks_ties_by_order() -> None:
    a = torch.tensor([[0.0, 2.0, 0.0, 0.0, 2.0, 3.0]])
    assert top_k(a, 2).tolist() == [[False, True, False, False, False, True]]
    assert top_k(a, 4).tolist() == [[True, True, False, False, True, True]]
    assert bool(top_k(a, 9).all())


def test_top_k_breaks_ties_by_order_in_long_rows() -> None:
    a = torch.zeros(1, 5000)  # an unstable sort keeps the order of short rows only
    assert top_k(a, 100).nonzero()[:, 1].tolist() == list(range(100))


def test_top_k_intersection_by_sets() -> None:
    a, b = rows(ties=False)
    for row, found in enumerate(top_k_intersection(a, b, 10).tolist()):
        best = [set(sorted(range(40), key=lambda i, x=x: -float(x[row, i]))[:10]) for x in (a, b)]
        assert found == pytest.approx(len(best[0] & best[1]) / 10)
    assert top_k_intersection(a, a, 5).tolist() == [1] * 7
    assert top_k_intersection(a, b, 99).tolist() == [1] * 7  # all forty
    assert top_k_intersection(a, -a, 20).tolist() == [0] * 7


def test_tie_share_by_hand() -> None:
    a = torch.tensor([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 1.0, 4.0], [5.0, 5.0, 0.0, 0.0], [7.0, 7.0, 7.0, 1.0]])
    assert tie_share(a).tolist() == [0, 0.5, 1, 0.75]
    assert tie_share(a[:, :1]).tolist() == [0, 0, 0, 0]


def test_zero_share_sees_zeros_that_rounding_made_unequal() -> None:
    a = torch.tensor([[1e-9, -2e-9, 3e-9, 1.0], [1.0, 2.0, -3.0, 4e-6]])
    assert zero_share(a).tolist() == [0.75, 0.0] and tie_share(a).tolist() == [0, 0]
    assert zero_share(a, 1e-5).tolist() == [0.75, 0.25]


def test_what_cannot_be_compared() -> None:
    a, b = rows(ties=False)
    for compare in (pearson, spearman, kendall_tau_b, lambda x, y: top_k_intersection(x, y, 3)):
        with pytest.raises(UsageError, match="same shape"):
            compare(a, b[:, 1:])
    with pytest.raises(UsageError, match="at least 1"):
        top_k_intersection(a, b, 0)
