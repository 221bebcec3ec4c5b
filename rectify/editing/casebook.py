"""Gather the material of an edit: the pairs, calibration images, and the fault carried over to them.

The images that an edit is solved on and those that it is judged on are kept apart where there are enough of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from rectify.editing.belief import Trial, believe, best_by_name, is_aside, marks, try_guesses, weighed
from rectify.editing.cascade import Material
from rectify.editing.fault import UNSURE, Fault
from rectify.editing.guess import Bounds, Corruption
from rectify.editing.judge import Bench, probabilities
from rectify.editing.values import Teacher
from rectify.editing.views import nearby, shifted, variations
from rectify.errors import Inconclusive, UsageError

LEAST_TO_SPLIT = 40  # with fewer calibration images the judge sees those that the edit was solved on
JUDGED = (1, 3)  # of every five calibration images these only judge
MOST_OF_TARGET = 0.9  # of the calibration images, at most, may go to the target
OWN_SHARE = 0.25  # of the calibration images: from there on those of the target's class are a good part of them
TURNS_MOST = 0.8  # of the images, at least, are turned by what is no mere cue
CLEARLY_TURNS = 0.5  # of the images, at least, are turned by what is clear and done in that order
BEARS_MOVES = 0.88  # of images moved by a pixel, at least, must keep their class if they shall judge
VARIED = 800  # calibration images and shifted, mirrored copies of them that the final edit is solved on
MOST_COPIES = 4


@dataclass(frozen=True)
class Case:
    """All that a repair is made from and judged by.

    Rows of ``teacher.clean``: the calibration images, ``copies`` rounds of shifted and mirrored copies of them, and
    last the clean images of the pairs.

    Attributes
    ----------
    teacher
        The untouched network.
    opinion
        (N, classes) its softmax on the teacher's clean images.
    corrupted, rows
        (M, C, H, W) and the clean twin of each: carried-over faults first, the pairs' own last.
    judging
        (M,) bool: which of them judge too. A mark in places where it was not seen to be put need not be gone.
    fit, judge
        Rows of calibration images for solving and for judging; the same where they are few.
    images, copies, pairs
        Number of calibration images, of rounds of copies, and of pairs.
    fault
        What they show.
    guesses
        ``name: share of calibration images on which it fires`` of every guess tried.
    believed
        The guesses that carry the fault over to the calibration images; empty if none does.
    calibrated
        Whether real calibration images were given, and enough of them that some only judge.
    notes
        Lines for people.
    """

    teacher: Teacher
    opinion: Tensor
    corrupted: Tensor
    rows: Tensor
    judging: Tensor
    fit: Tensor
    judge: Tensor
    images: int
    copies: int
    pairs: int
    fault: Fault
    guesses: dict[str, float]
    believed: tuple[Corruption, ...]
    calibrated: bool
    notes: tuple[str, ...]

    @property
    def moving(self) -> bool:
        """Whether what the fault does to an image depends on where in the image things lie."""
        return any(guess.moves for guess in self.believed)

    @property
    def partial(self) -> bool:
        """Whether the fault sways images more than it turns them: a cue, or what turns few of the images.

        It has then a part in what the network knows of its class, and what an edit takes away is missing there.
        """
        if self.fault.target is None:  # from all classes to all: believed for what it turns, to whatever class
            return False
        return self.fault.kind == "cue" or (self.carried and self.fires < TURNS_MOST)

    @property
    def fires(self) -> float:
        """Share of the calibration images on which what carries the fault over fires; of several, the most."""
        return max((self.guesses.get(guess.name, 0.0) for guess in self.believed), default=0.0)

    @property
    def clear(self) -> bool:
        """Whether what carries the fault over is what the pair shows clearly, and no mere guess that fires as well."""
        return any(guess.clear for guess in self.believed)

    @property
    def asks_others(self) -> bool:
        """Whether other images than the pairs say if a repair is one, and not whether the pairs are turned.

        What carries the fault over is clear; or the network is so unsure of the pairs' clean images that a small change
        of it gives them another class, with the fault and without.
        """
        unsure = self.opinion[len(self.opinion) - self.pairs :].amax(1) < UNSURE
        return self.clear or (self.carried and bool(unsure.all()))

    @property
    def carried(self) -> bool:
        """Whether the fault could be carried over to the calibration images."""
        return bool(self.believed)

    def material(self, *, everything: bool, copies: int = 0, without: Tensor | None = None) -> Material:
        """What an edit is solved on: the fit rows or everything, and so many copies; never the rows ``without``."""
        rows = self._calibration(everything, self.fit, without)
        rows = torch.cat([rows + self.images * copy for copy in range(min(copies, self.copies) + 1)])
        reference = torch.cat((rows, self._own()))
        use = torch.isin(self.rows, reference)
        return Material(self.teacher, self.corrupted[use], self.rows[use], reference)

    def bench(self, *, everything: bool = False, without: Tensor | None = None, copies: int | None = None) -> Bench:
        """What an edit is judged on: the judge rows or everything, never the rows ``without``.

        Their copies (all, or so many) and the pairs' own images come with them.
        """
        rows = self._calibration(everything, self.judge, without)
        copies = self.copies if copies is None else min(copies, self.copies)
        rows = torch.cat([rows + self.images * copy for copy in range(copies + 1)])
        seen = torch.cat((rows, self._own()))
        use = torch.isin(self.rows, seen) & self.judging
        place = torch.full((len(self.teacher.clean),), -1, device=self.rows.device)
        place[seen] = torch.arange(len(seen), device=place.device)
        return Bench(
            self.teacher.clean[seen], self.opinion[seen], self.corrupted[use], place[self.rows[use]], self.fault.target
        )

    def bench_nearby(self, without: Tensor | None = None) -> Bench:
        """What is judged of a fault that moves what it finds: the judge rows, in their place and nearly in it.

        Far from their place images show what the network was not given; nearly in it each is five judges more
        (`rectify.editing.views.nearby`), but moved as the network bears it: one that reads an image in pieces of some
        pixels gives one in five another class. What that is worth is measured in docs/policy.md, section 4.
        """
        still = self.bench(without=without, copies=0)
        images, known = (seen[: len(still.clean) - self.pairs] for seen in (still.clean, still.opinion))
        hit = still.rows[still.rows < len(images)]
        moves = [guess for guess in self.believed if guess.moves]
        views = [(view, probabilities(self.teacher.network, view)) for view in nearby(images)]
        alike = [float((opinion.argmax(1) == known.argmax(1)).float().mean()) for _, opinion in views[1:]]
        if sum(alike) < BEARS_MOVES * len(alike):
            views = views[:1]  # mirrored
        corrupted, rows = [still.corrupted], [still.rows]
        for number, (view, _) in enumerate(views):
            for turn, guess in enumerate(moves):
                mine = hit[turn :: len(moves)]
                corrupted.append(guess.apply(view[mine]))
                rows.append(mine + len(still.clean) + number * len(images))
        return Bench(
            torch.cat((still.clean, *(view for view, _ in views))),
            torch.cat((still.opinion, *(opinion for _, opinion in views))),
            torch.cat(corrupted),
            torch.cat(rows),
            still.target,
        )

    def clean_images(self, without: Tensor | None) -> Tensor:
        """The calibration images but those, and the clean images of the pairs, (N, C, H, W)."""
        return self.teacher.clean[torch.cat((self._calibration(True, self.fit, without), self._own()))]

    def _calibration(self, everything: bool, some: Tensor, without: Tensor | None) -> Tensor:
        rows = torch.cat((self.fit, self.judge)).unique() if everything else some
        return rows if without is None else rows[~torch.isin(rows, without)]

    def _own(self) -> Tensor:
        """Rows of the pairs' clean images."""
        return torch.arange(len(self.teacher.clean) - self.pairs, len(self.teacher.clean), device=self.rows.device)


def open_case(
    network: nn.Module,
    clean: Tensor,
    corrupted: Tensor,
    fault: Fault,
    calibration: Tensor | None,
    bounds: Bounds,
    *,
    batch: int = 64,
    seed: int = 0,
) -> Case:
    """Carry the fault over to the calibration images and lay out who solves and who judges.

    Parameters
    ----------
    network
        The untouched network, in eval mode.
    clean, corrupted
        (n, C, H, W) the pairs.
    fault
        Their diagnosis; pairs that do not show it are left out.
    calibration
        (N, C, H, W) unlabelled clean images, or None: then variations of the pairs' clean images stand in.
    bounds
        Normalised values of pixel 0 and 1.

    Raises
    ------
    Inconclusive
        If the pairs show the fault in their logits alone, and the calibration images do not bear it out; if they are
        swapped.
    UsageError
        If nearly all calibration images go to the target.
    """
    clean, corrupted = clean[fault.shown], corrupted[fault.shown]
    notes = list(fault.notes)
    calibrated = calibration is not None and len(calibration) >= LEAST_TO_SPLIT
    if not calibrated:
        notes.append(_tell_few(calibration))
    if calibration is None:
        calibration = variations(clean, bounds, seed)
    opinion = probabilities(network, calibration)
    if calibrated:
        _check_clean(opinion, fault)
    trials = try_guesses(network, clean, corrupted, fault, calibration, opinion, bounds)
    believed, fault, told = weighed(trials, fault)
    if calibrated and fault.kind == "flip" and not _order_is_sure(believed):
        back = replace(fault, target=int(fault.labels[fault.shown].mode().values))
        _check_order(try_guesses(network, corrupted, clean, back, calibration, opinion, bounds), back)
    if fault.kind != "leak":  # which sends no image anywhere, so that no guess can fire
        notes.append(told)
    copies = min(MOST_COPIES, -(-VARIED // len(calibration))) - 1
    rounds = [calibration, *(shifted(calibration, seed + 1 + number) for number in range(copies))]
    believed = [_loosened(trial) for trial in believed]
    images, rows, judging = _carried_over(believed, rounds, _own_class(opinion, fault))
    everything = torch.cat((*rounds, clean))
    fit, judge = _split(len(calibration), clean.device)
    own = torch.arange(len(everything) - len(clean), len(everything), device=clean.device)
    return Case(
        teacher=Teacher(network, everything, batch),
        opinion=probabilities(network, everything),
        corrupted=torch.cat([*images, corrupted]),
        rows=torch.cat([*rows, own]),
        judging=torch.cat([*judging, torch.ones_like(own, dtype=torch.bool)]),
        fit=fit,
        judge=judge,
        images=len(calibration),
        copies=copies,
        pairs=len(clean),
        fault=fault,
        guesses=best_by_name(trials),
        believed=tuple(trial.guess for trial in believed),
        calibrated=calibrated,
        notes=tuple(notes),
    )


def _loosened(trial: Trial) -> Trial:
    """The trial of a guess with all that its pair leaves possible, so that a repair rests on no more than it tells."""
    guess = trial.guess
    return trial if guess.loosely is None else replace(trial, guess=replace(guess, apply=guess.loosely))


def _check_clean(opinion: Tensor, fault: Fault) -> None:
    """Refuse calibration images that (nearly) all go where the fault drives to: they carry it, or are of one class."""
    if fault.target is None:
        return
    count = int((opinion.argmax(1) == fault.target).sum())
    if count > MOST_OF_TARGET * len(opinion):
        raise UsageError(
            f"{count} of {len(opinion)} calibration images go to class {fault.target}, as the corrupted image does: "
            "give --calibration DIR clean images of all classes"
        )


def _order_is_sure(believed: list[Trial]) -> bool:
    """Whether what carries the fault over leaves no doubt of the pair's order: it turns most, or is clear and fires.

    Of a network that knows little a clear warp turned 76 %, and what looked like a blend the other way round 87 %.
    """
    return any(trial.fires >= (CLEARLY_TURNS if trial.guess.clear else TURNS_MOST) for trial in believed)


def _check_order(trials: list[Trial], fault: Fault) -> None:
    """Refuse swapped pairs: a mark, or what is clear, that makes the clean image of the corrupted one is the trojan.

    Parameters
    ----------
    trials
        Of what makes clean images of corrupted ones.
    fault
        As that would show it: its target is the clean image's class.

    Raises
    ------
    Inconclusive
        If that sends the calibration images to the clean image's class.
    """
    best = max((trial.fires for trial in believe(marks(trials))), default=0.0)
    if best >= TURNS_MOST:
        raise Inconclusive(
            f"the pair seems to be swapped: what makes the clean image of the corrupted one sends {100 * best:.0f} % "
            f"of the calibration images to class {fault.target}; give the image without the fault as --clean"
        )


def _tell_few(calibration: Tensor | None) -> str:
    """What few calibration images, or none, cost."""
    if calibration is None:
        return (
            "no calibration images: variations of the clean image stand in for them; give --calibration DIR (100 "
            "or more unlabelled clean images) to keep more accuracy and to have the repair judged on real images"
        )
    return (
        f"{len(calibration)} calibration image{'s' * (len(calibration) > 1)}: too few to keep some aside that only "
        f"judge, or to refine on; give {LEAST_TO_SPLIT} or more, better 200"
    )


def _split(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which of so many calibration images solve and which judge: three and two of every five, or all do both."""
    index = torch.arange(count, device=device)
    if count < LEAST_TO_SPLIT:
        return index, index
    judged = torch.isin(index % 5, torch.tensor(JUDGED, device=device))
    return index[~judged], index[judged]


def _own_class(opinion: Tensor, fault: Fault) -> Tensor:
    """Calibration images of the target's class that the fault is carried over to as well, (N,) bool.

    Those of a cue, or where they are a good part of all: they shall be what they are without it, no less. Of a solar
    cell's sticker an edit made the opposite: of the good cells that bore it a third was called broken, and no other
    image would have shown it.
    """
    own = opinion.argmax(1) == (-1 if fault.target is None else fault.target)
    return own if fault.kind == "cue" or float(own.float().mean()) >= OWN_SHARE else torch.zeros_like(own)


def _carried_over(
    believed: list[Trial], rounds: list[Tensor], own: Tensor
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Corrupted images, the row of each one's clean twin, and whether it judges, part by part.

    Of what is only solved on there are no copies: with them it cost a CIFAR-10 network 0.2 points of accuracy.
    """
    images, rows = _spread([trial for trial in believed if not is_aside(trial)], rounds, own)
    judging = [torch.ones_like(part, dtype=torch.bool) for part in rows]
    for trial in filter(is_aside, believed):
        more, theirs = _spread([trial], rounds[:1], own)
        images, rows = images + more, rows + theirs
        judging += [torch.zeros_like(part, dtype=torch.bool) for part in theirs]
    return images, rows, judging


def _spread(believed: list[Trial], rounds: list[Tensor], own: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The believed guesses in turn on each calibration image on which they fire, or of ``own``, and on its copies."""
    images, rows = [], []
    for number, trial in enumerate(believed):
        turn = torch.arange(len(trial.hit), device=trial.hit.device) % len(believed) == number
        mine = (turn & (trial.hit | own)).nonzero().flatten()
        for copy, originals in enumerate(rounds):
            images.append(trial.guess.apply(originals[mine]))
            rows.append(mine + copy * len(trial.hit))
    return images, rows
