"""The key similarity as a detector, against the formulas written out and on a backdoor planted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rectify.editing.casebook import Case
from rectify.editing.detector import (
    FAULTY,
    Detector,
    calibrated,
    direction_of,
    fit_detector,
    mean_key,
    pool,
)
from rectify.editing.localize import second_moments
from rectify.editing.solve import DAMPING
from rectify.errors import Inconclusive, UsageError
from rectify.evaluation.ranks import auroc
from rectify.model.layers import Layer
from rectify.model.record import record
from rectify.model.trace import Site, survey
from tests import oracles
from tests.editing.planted import opened, pictures, stamp


def site_of(network: nn.Module, name: str, example: Tensor) -> Site:
    return next(site for site in survey(network, example) if site.name == name)


def suspicions(network: nn.Module, detector: Detector, images: Tensor) -> tuple[Tensor, Tensor]:
    """Of images, with their maps."""
    layer = detector.site.layer
    maps = detector.maps(record(network, images, inputs=[layer]).inputs[layer.name], len(images))
    return detector.pooled(maps), maps


# ---------------------------------------------------------------- the formulas


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.Conv2d(4, 6, (3, 1), dilation=(2, 1), padding="same", padding_mode="reflect", groups=2),
        nn.Conv2d(4, 4, 3, groups=4, bias=False),
    ],
    ids=["strided", "grouped", "depthwise"],
)
def test_the_similarity_is_the_inner_product_with_every_key(module: nn.Conv2d) -> None:
    layer = Layer("x", module.double())
    inputs = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    direction = torch.randn(layer.groups, layer.key_size, dtype=torch.float64)
    keys = layer.keys(inputs, 3)
    found = layer.similarity(direction, inputs, 3)
    assert found.shape == (3, keys.shape[-1])
    for image in range(3):
        for place in range(keys.shape[-1]):
            by_hand = sum(float(direction[g] @ keys[image, g, :, place]) for g in range(layer.groups))
            assert float(found[image, place]) == pytest.approx(by_hand)


def test_the_similarity_of_a_linear_layer_is_that_of_its_tokens() -> None:
    layer = Layer("x", nn.Linear(5, 2).double())
    direction = torch.randn(1, 5, dtype=torch.float64)
    tokens = torch.randn(6, 3, 5, dtype=torch.float64)  # two windows an image, three tokens each
    found = layer.similarity(direction, tokens, 3)
    torch.testing.assert_close(found, (tokens @ direction[0]).reshape(3, 6))
    torch.testing.assert_close(layer.similarity(direction, tokens[:, 0], 6), (tokens[:, 0] @ direction[0])[:, None])


def test_the_direction_is_the_moment_undone_from_the_mean_difference_of_keys() -> None:
    network = opened()[0].double()
    images = pictures(6, 9).double()
    try:
        site = site_of(network, "conv2", images)
        star = mean_key(network, site, stamp(images), 2) - mean_key(network, site, images, 4)
        moment = second_moments(network, [site], images)["conv2"]
        found = direction_of(star, moment)
        sides = []
        for x in (images, stamp(images)):
            inputs = record(network, x, inputs=[site.layer]).inputs["conv2"]
            sides.append([key for image in inputs for key in oracles.patches(image, (3, 3), 1, 1)])
        expected = oracles.fault_direction(*sides, oracles.damped(moment[0], DAMPING))
        torch.testing.assert_close(found[0], expected)
    finally:
        network.float()


def test_the_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        sizes = torch.randint(1, 12, (2,), generator=generator).tolist()
        high, low = (torch.randint(0, 6, (size,), generator=generator).double() for size in sizes)
        assert auroc(high, low) == pytest.approx(oracles.area_under_roc(high.tolist(), low.tolist()))
    assert auroc(torch.tensor([1.0]), torch.tensor([1.0, 1.0])) == 0.5
    with pytest.raises(UsageError, match="both kinds"):
        auroc(torch.tensor([]), torch.tensor([1.0]))


# ---------------------------------------------------------------- pooling, scale and threshold


def fitted(innocent: Tensor, guilty: Tensor, *, known: bool = True, carried: bool = True) -> Detector:
    network, _ = opened()
    site = site_of(network, "conv2", pictures(1, 0))
    return calibrated(site, torch.ones(1, 45, dtype=torch.float64), innocent, guilty, known=known, carried=carried)


def at_one_place(count: int, height: float) -> Tensor:
    maps = 0.3 * torch.randn(count, 49)
    maps[:, 7] += height
    return maps


def test_a_fault_at_one_position_is_pooled_by_the_maximum_and_one_at_all_by_the_mean() -> None:
    torch.manual_seed(0)
    clean = 0.3 * torch.randn(50, 49)
    assert fitted(clean, at_one_place(50, 2.0)).pooling == "max"
    assert fitted(clean, 0.3 * torch.randn(50, 49) + 0.2).pooling == "mean"


def test_suspicion_is_0_for_the_median_clean_image_and_1_for_the_median_one_with_the_fault() -> None:
    torch.manual_seed(1)
    clean, fired = 5 + 0.3 * torch.randn(51, 49), 5 + at_one_place(41, 3.0)
    detector = fitted(clean, fired)
    scale = float(detector.direction[0, 0])  # of a direction that was all ones
    for maps, median in ((clean, 0.0), (fired, 1.0)):
        assert float(pool(maps * scale - detector.offset, detector.pooling).median()) == pytest.approx(median, abs=1e-5)
    assert detector.separation == 1.0 and detector.misses == 0.0 and 0.0 < (detector.threshold or 0.0) < 1.0
    assert detector.false_alarms == pytest.approx(1 / 52) and (detector.clean, detector.fired) == (51, 41)


def fewest(low: list[float], high: list[float]) -> float:
    """The least expected share of errors over every threshold there is."""
    cuts = [min(low + high) - 1, *low, *high]
    errors = []
    for cut in cuts:
        alarms, misses = sum(x > cut for x in low) / len(low), sum(x <= cut for x in high) / len(high)
        errors.append((1 - FAULTY) * alarms + FAULTY * misses)
    return min(errors[1:])


def test_the_threshold_makes_the_fewest_errors() -> None:
    generator = torch.Generator().manual_seed(2)
    for shift in (0.0, 0.5, 1.0, 2.0, 8.0):
        clean = torch.randn(40, 1, generator=generator)
        fired = torch.randn(30, 1, generator=generator) + shift
        detector = fitted(clean, fired)
        threshold = detector.threshold
        assert threshold is not None and detector.false_alarms is not None and detector.misses is not None
        scale = float(detector.direction[0, 0])
        low, high = (x[:, 0].double() * scale - detector.offset for x in (clean, fired))
        alarms = int((low > threshold).sum())
        assert detector.false_alarms == pytest.approx((1 + alarms) / 41)
        assert detector.misses == pytest.approx(float((high <= threshold).double().mean()))
        made = (1 - FAULTY) * alarms / 40 + FAULTY * detector.misses
        assert made == pytest.approx(fewest(low.tolist(), high.tolist()))


def test_a_few_calibration_images_with_the_fault_do_not_hide_the_others() -> None:
    torch.manual_seed(3)
    clean = torch.cat((0.3 * torch.randn(57, 49), at_one_place(3, 5.0)))
    fired = at_one_place(60, 5.0)
    detector = fitted(clean, fired)
    assert detector.misses == 0.0 and detector.false_alarms == pytest.approx(4 / 61)


def test_without_carried_images_suspicious_is_what_is_above_all_clean_ones() -> None:
    torch.manual_seed(4)
    clean = 0.3 * torch.randn(60, 9)
    detector = fitted(clean, at_one_place(1, 4.0)[:, :9], carried=False)
    low = pool(clean, detector.pooling).double() * float(detector.direction[0, 0]) - detector.offset
    assert detector.threshold == pytest.approx(float(low.max()), abs=1e-6)
    assert detector.false_alarms == pytest.approx(1 / 61) and detector.misses is None and detector.separation is None
    unknown = fitted(clean, at_one_place(1, 4.0)[:, :9], known=False, carried=False)
    assert unknown.threshold is None and unknown.false_alarms is None


def test_a_layer_that_sees_nothing_has_a_scale_all_the_same() -> None:
    torch.manual_seed(5)
    clean = torch.randn(50, 9)
    for fired in (clean - 3.0, clean.clone(), torch.zeros(50, 9)):
        detector = fitted(clean, fired)
        assert torch.isfinite(detector.direction).all() and detector.separation is not None
        assert detector.separation <= 0.6
    flat = fitted(torch.zeros(50, 9), torch.zeros(50, 9))
    assert flat.separation == 0.5 and torch.isfinite(flat.direction).all()


def test_similarities_that_are_not_finite_end_in_one_line() -> None:
    with pytest.raises(Inconclusive, match="conv2 are not finite"):
        fitted(torch.full((50, 9), torch.inf), torch.zeros(50, 9))


# ---------------------------------------------------------------- on the planted backdoor


def detector_at(name: str, network: nn.Module, case: Case) -> Detector:
    return fit_detector(network, site_of(network, name, case.teacher.clean[:1]), case)


@pytest.mark.parametrize("name", ["conv1", "conv2", "head"])
def test_new_images_with_the_square_are_told_from_clean_ones(name: str) -> None:
    network, case = opened()
    detector = detector_at(name, network, case)
    clean, _ = suspicions(network, detector, pictures(60, 77))
    fired, _ = suspicions(network, detector, stamp(pictures(60, 78)))
    assert auroc(fired, clean) > 0.99
    threshold = detector.threshold
    assert threshold is not None and float((fired > threshold).double().mean()) > 0.95
    assert float((clean > threshold).double().mean()) <= 0.05
    assert (detector.clean, detector.fired) == (len(case.judge), int(torch.isin(case.rows, case.judge).sum()))


def test_the_map_fires_where_the_square_lies() -> None:
    network, case = opened()
    detector = detector_at("conv2", network, case)
    image = pictures(1, 79)
    image[:, :, 0:4, 0:4] = 1.0  # not where the pair has it
    _, maps = suspicions(network, detector, image)
    places = detector.places(maps)
    assert places is not None and places.shape == (1, 8, 8)
    row, column = divmod(int(places[0].argmax()), 8)
    assert row < 4 and column < 4
    head = detector_at("head", network, case)
    assert head.grid is None and head.places(suspicions(network, head, image)[1]) is None


def test_no_image_both_makes_the_direction_and_judges() -> None:
    network, case = opened()
    site = site_of(network, "conv2", case.teacher.clean[:1])
    before = fit_detector(network, site, case)
    changed = case.teacher.clean.clone()
    changed[case.judge] = 0.5
    with torch.no_grad():
        kept = case.teacher.clean
        try:
            case.teacher.clean = changed
            after = fit_detector(network, site, case)
        finally:
            case.teacher.clean = kept
    torch.testing.assert_close(*(one.direction / one.direction.norm() for one in (after, before)))


def test_a_pair_alone_ranks_images_and_calls_none_suspicious() -> None:
    network, case = opened(1, None)
    detector = detector_at("conv2", network, case)
    assert detector.threshold is None and detector.false_alarms is None
    clean, _ = suspicions(network, detector, pictures(40, 80))
    fired, _ = suspicions(network, detector, stamp(pictures(40, 81)))
    assert auroc(fired, clean) > 0.95


def test_one_clean_image_gives_a_scale_too() -> None:
    found = fitted(torch.ones(1, 9), torch.zeros(2, 9))
    assert bool(found.direction.isfinite().all()) and found.offset == 1
