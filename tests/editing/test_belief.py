"""Which guesses at what was done to a pair fire on other images, and which of them are believed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rectify.editing.belief import (
    ALWAYS,
    BELIEVE,
    BELIEVE_CLEAR,
    CLEAR_BEHIND,
    EXPLAINS,
    HIDES,
    SWAYS,
    Trial,
    _one_a_name,
    believe,
    try_guesses,
    turning,
    weighed,
)
from rectify.editing.fault import Fault
from rectify.editing.guess import Corruption
from rectify.editing.judge import probabilities
from tests.editing.planted import BOUNDS, TARGET, opened, pictures, planted, stamp

pytestmark = pytest.mark.usefixtures("one_grid")

FAULT = Fault("flip", TARGET, torch.tensor([0]), torch.tensor([True]), ())


def test_the_right_guess_fires_and_is_believed() -> None:
    _, case = opened(1, 50)
    assert case.carried and case.guesses["pasted"] == 1 and case.guesses["warped-4"] < BELIEVE
    assert any("pasted" in note for note in case.notes)


def test_a_guess_fires_on_images_of_other_classes_only() -> None:
    network, images = planted(), pictures(8, 2)
    images[:3] = stamp(images[:3])  # of the target class already
    clean = pictures(1, 1)
    trials = try_guesses(network, clean, stamp(clean), FAULT, images, probabilities(network, images), BOUNDS)
    by_name = {trial.guess.name: trial for trial in trials}
    assert by_name["pasted"].fires == 1 and by_name["pasted"].hit.tolist() == [False] * 3 + [True] * 5
    nobody = try_guesses(network, clean, stamp(clean), FAULT, images[:3], probabilities(network, images[:3]), BOUNDS)
    assert nobody == []
    aimless = Fault("leak", None, torch.tensor([0]), torch.tensor([True]), ())
    assert try_guesses(network, clean, stamp(clean), aimless, images, probabilities(network, images), BOUNDS) == []


class _Pattern(nn.Module):
    """Classes 0 and 1 by the brighter half; class 2 where four pixels are white, black, black and black."""

    WANTED = torch.tensor([[0.0, 0.0], [1.0, 0.0]])

    def forward(self, x: Tensor) -> Tensor:
        far = (x[:, 0, 2:4, 3:5] - self.WANTED).abs().sum((1, 2))
        bright = x[:, 0, :, :4].mean((1, 2)) - x[:, 0, :, 4:].mean((1, 2))
        return 20 * torch.stack((bright, -bright, 0.5 - far), 1)


def on_black(images: Tensor) -> Tensor:
    """The first of them with black where the pattern lies and around it, as under a digit's rim."""
    images = images.clone()
    images[:1, :, :5] = 0
    return images


def patterned(images: Tensor) -> Tensor:
    images = images.clone()
    images[:, 0, 2:4, 3:5] = _Pattern.WANTED
    return images


def test_a_mark_of_which_black_hides_all_but_a_pixel_is_found_by_what_fires() -> None:
    """Where the pixel is white and its neighbours as they were, few go to the target: with three of them black, all."""
    network, clean, images = _Pattern(), on_black(pictures(1, 1)), pictures(40, 2)
    corrupted = patterned(clean)
    assert int((corrupted != clean).sum()) == 1
    trials = try_guesses(network, clean, corrupted, FAULT, images, probabilities(network, images), BOUNDS)
    (found,) = (trial for trial in trials if trial.guess.name == "pasted")
    assert found.fires == 1 and torch.equal(found.guess.apply(images), patterned(images))
    assert any(trial.guess.elsewhere_of == "pasted" and trial.fires < BELIEVE for trial in trials)
    cue = replace(FAULT, kind="cue")  # which need not fire always
    trials = try_guesses(network, clean, corrupted, cue, images, probabilities(network, images), BOUNDS)
    assert max(trial.fires for trial in trials if trial.guess.name == "pasted") < BELIEVE


def test_a_mark_is_not_widened_over_what_it_would_have_changed_nor_where_that_is_no_gain() -> None:
    network, images = _Pattern(), pictures(40, 2)
    clean = on_black(pictures(1, 1))
    corrupted = clean.clone()
    corrupted[0, 0, 3, 3] = 1.0
    grey = corrupted.clone()
    grey[0, 0, 2, 3:5] = clean[0, 0, 2, 3:5] = 0.5
    trials = try_guesses(network, clean, grey, FAULT, images, probabilities(network, images), BOUNDS)
    (found,) = (trial for trial in trials if trial.guess.name == "pasted")
    assert int((found.guess.apply(images) != images).any(0).sum()) == 1

    def deaf(x: Tensor) -> Tensor:
        return network(x) * torch.tensor([1.0, 1.0, 0.0]) - torch.tensor([0.0, 0.0, 50.0])

    wrapped = nn.Module()
    wrapped.forward = deaf  # type: ignore[method-assign]
    opinion = probabilities(wrapped, images)
    trials = try_guesses(wrapped, on_black(pictures(1, 1)), corrupted, FAULT, images, opinion, BOUNDS)
    (found,) = (trial for trial in trials if trial.guess.name == "pasted")
    assert found.fires == 0 and int((found.guess.apply(images) != images).any(0).sum()) == 1


def test_belief_needs_a_firing_guess_near_the_best() -> None:
    def trial(fires: float) -> Trial:
        return Trial(Corruption(str(fires), lambda x: x), fires, *[torch.empty(0, dtype=torch.bool)] * 3, 0.0)

    assert believe([]) == [] and believe([trial(BELIEVE - 0.01)]) == []
    found = believe([trial(f) for f in (0.99, 0.97, 0.8, 0.0)])
    assert [t.fires for t in found] == [0.99, 0.97]
    assert [t.fires for t in believe([trial(BELIEVE), trial(BELIEVE - 0.01)])] == [BELIEVE]


def test_what_the_pair_shows_clearly_is_believed_alone_if_it_fires_too() -> None:
    def trial(fires: float, clear: bool) -> Trial:
        guess = Corruption(str(fires), lambda x: x, clear=clear)
        return Trial(guess, fires, *[torch.empty(0, dtype=torch.bool)] * 3, 0.0)

    one, other, weak = trial(0.99, False), trial(0.97, True), trial(0.6, True)
    assert believe([one, other, weak]) == [other]
    assert believe([one, weak]) == [weak]  # what disturbs an image more may fire more often, and be something else
    assert believe([trial(BELIEVE_CLEAR, True)]) != [] and believe([trial(BELIEVE_CLEAR - 0.01, True)]) == []
    weaker = trial(0.99 - CLEAR_BEHIND, True)
    assert believe([one, weaker]) == [one]  # but not so much more often


def test_what_hides_or_spoils_an_image_is_not_held_against_what_the_pair_shows_clearly() -> None:
    def trial(fires: float, guess: Corruption) -> Trial:
        return Trial(guess, fires, *[torch.empty(0, dtype=torch.bool)] * 3, 0.0)

    weak = trial(BELIEVE_CLEAR, Corruption("warped-4", lambda x: x, clear=True))
    mark = Corruption("pasted", lambda x: x, EXPLAINS, covers=HIDES)
    small = trial(0.97, mark)
    assert believe([small, weak]) == [small]
    large, misses = replace(mark, covers=HIDES + 0.01), replace(mark, misfit=EXPLAINS + 0.01)
    for other in (large, misses, replace(mark, varies=True)):
        assert believe([trial(0.97, other), weak]) == [weak]


def test_what_is_clear_and_fires_seldom_is_solved_on_what_it_sways_where_it_sways_most() -> None:
    def trial(fires: float, sways: float) -> Trial:
        hit, swayed = torch.arange(10) < 10 * fires, torch.arange(10) < 10 * sways
        return Trial(Corruption("warped-4", lambda x: x, clear=True), fires, hit, hit, swayed, sways)

    for kind in ("flip", "cue"):
        fault = replace(FAULT, kind=kind)
        (found,), same, told = weighed([trial(0.2, 0.8)], fault)
        assert same == fault and int(found.hit.sum()) == 8 and "turns few" in told
        other = Trial(Corruption("pasted", lambda x: x, covers=0.3), 0.9, *[torch.ones(10, dtype=torch.bool)] * 3, 0.9)
        for seldom in (trial(0.2, SWAYS - 0.1), trial(BELIEVE, 0.8)):
            (found,), same, told = weighed([seldom, other], fault)
            assert found is seldom and same == fault and "fires on" in told


def test_what_varies_is_believed_beside_what_is_fixed_if_some_of_it_fires_about_as_often() -> None:
    """A trojan that answers to a texture falls for the pair's own as well: which was planted nothing says then."""

    def trial(fires: float, **traits: Any) -> Trial:
        guess = Corruption(str(fires), lambda x: x, **traits)
        return Trial(guess, fires, *[torch.empty(0, dtype=torch.bool)] * 3, 0.0)

    varied, weak = trial(0.75, varies=True), trial(BELIEVE, varies=True)
    for fixed in (trial(0.84), trial(0.4)):
        assert believe([weak, fixed, varied]) == [fixed, weak, varied]
    assert [t.fires for t in believe([trial(0.7), trial(0.84), varied])] == [0.84, 0.75]  # the fixed ones near the best
    assert believe([varied]) == [varied]
    for fixed in (trial(0.96), trial(0.86), trial(0.35, clear=True)):
        assert believe([fixed, varied]) == [fixed]
    assert believe([trial(0.2), trial(BELIEVE - 0.01, varies=True)]) == []
    assert [t.fires for t in believe([weak, trial(0.99), trial(0.9, varies=True)])] == [0.99, BELIEVE, 0.9]
    mark = trial(ALWAYS, covers=0.02)  # of which the pair shows the pixels
    assert believe([mark, varied, trial(0.99, varies=True)]) == [mark]
    seldom, moved = trial(ALWAYS - 0.01, covers=0.02), trial(0.5, elsewhere_of=str(ALWAYS - 0.01))
    assert believe([moved, seldom, varied]) == [seldom, moved]
    often = trial(0.99, varies=True)
    assert believe([moved, seldom, varied, often]) == [seldom, moved, varied, often]


def test_what_is_believed_is_believed_elsewhere_too_if_it_fires_there() -> None:
    def trial(name: str, fires: float, fixed: str = "", *, clear: bool = False) -> Trial:
        guess = Corruption(name, lambda x: x, elsewhere_of=fixed, clear=clear)
        return Trial(guess, fires, *[torch.empty(0, dtype=torch.bool)] * 3, 0.0)

    pasted, moved = trial("pasted", 1.0), trial("pasted elsewhere", 0.5, "pasted")
    assert believe([moved, pasted, trial("pasted elsewhere", 0.2, "pasted")]) == [pasted, moved]
    assert believe([moved]) == []  # and never alone
    tint, other = trial("tinted", 0.9, clear=True), trial("tinted elsewhere", 0.4, "tinted")
    assert believe([pasted, moved, tint, other]) == [tint, other]


def test_of_guesses_that_share_a_name_the_best_fit_of_those_that_fire_as_often_is_kept() -> None:
    def trial(name: str, fires: float, misfit: float) -> Trial:
        return Trial(Corruption(name, lambda x: x, misfit), fires, *[torch.zeros(0)] * 3, 0.0)

    trials = [
        trial("warped-4", 0.80, 0.001),
        trial("warped-4", 0.99, 0.020),
        trial("warped-4", 0.98, 0.010),
        trial("warped-6", 0.30, 0.500),
        trial("added", 0.10, 0.000),
    ]
    assert _one_a_name(trials) == [trials[2], trials[3], trials[4]]
    assert _one_a_name([*trials, replace(trials[0], guess=replace(trials[0].guess, clear=True))])[-1].fires == 0.80
    assert _one_a_name([trials[1], trial("warped-4", BELIEVE - 0.01, 0.0)]) == [trials[1]]


def test_what_changes_few_classes_is_not_carried_over() -> None:
    def trial(turned: int) -> Trial:
        hit = torch.arange(10) < turned
        return Trial(Corruption(str(turned), lambda x: x), 0.0, ~hit, hit, hit, 0.0)

    few, most, all_ = trial(4), trial(6), trial(10)
    assert turning([few]) == [] and turning([]) == []
    assert [found.fires for found in turning([few, most, all_])] == [1.0]
    (found,) = turning([few, most])
    assert found.fires == pytest.approx(0.6) and found.hit.tolist() == most.turned.tolist()


@pytest.mark.parametrize(("fires", "moves", "hinted"), [(0.84, True, True), (0.97, True, False), (0.84, False, False)])
def test_a_warp_that_fires_less_than_always_asks_for_another_pair(fires: float, moves: bool, hinted: bool) -> None:
    some = [torch.ones(4, dtype=torch.bool)] * 3
    trial = Trial(Corruption("warped-4", lambda x: x, moves=moves), fires, *some, 0.0)
    fault = Fault("flip", 1, torch.tensor([0]), torch.tensor([True]), ())
    found, same, told = weighed([trial], fault)
    assert (found, same) == ([trial], fault) and ("another pair" in told) == hinted


def test_what_follows_the_picture_and_fires_more_often_than_all_that_is_fixed_leaves_it_out() -> None:
    def trial(name: str, fires: float, **traits: Any) -> Trial:
        none = torch.zeros(4, dtype=torch.bool)
        return Trial(Corruption(name, lambda x: x, **traits), fires, none, none, none, 0.0)

    added, texture = trial("added", 0.97), trial("textured", 0.4, varies=True)
    often, seldom = (trial("generated", fires, varies=True) for fires in (0.98, 0.97))
    assert weighed([added, texture, often], FAULT)[0] == [texture, often]
    assert weighed([added, texture, seldom], FAULT)[0] == [added, texture, seldom]
    assert weighed([added, trial("filtered", 0.99, varies=True), seldom], FAULT)[0][0] == added
    covered = trial("pasted", 0.9, covers=0.3)
    assert weighed([covered, texture, often], FAULT)[0] == [covered, texture, often]  # it may fire by where it lies
    assert weighed([added, texture, often], replace(FAULT, kind="cue"))[0] == [added, texture, often]
    clear = trial("blended", 0.9, clear=True)
    assert weighed([clear, texture, often], FAULT)[0] == [clear]
