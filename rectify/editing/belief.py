"""Which guesses of what was done to a pair carry over to other images: each is tried on the calibration images.

A guess is believed if it fires there: if the network falls for it as it did in the pair. What fires only because it
spoils an image is told from it by what the pair shows (`rectify.editing.corruption.Corruption.clear`) and by how often.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from rectify.editing.corruption import guesses
from rectify.editing.fault import Fault, rises, sends_each
from rectify.editing.guess import Bounds, Corruption
from rectify.editing.judge import probabilities
from rectify.errors import Inconclusive

BELIEVE = 0.3  # a guess must fire on this share of the calibration images; wrong ones were seen to fire on 0.12 or less
# A clear one need not fire so often: not every trojan does on most images. Two warps of 15 and 20 % were told to a
# thousandth of what they change.
BELIEVE_CLEAR = 0.1
# What differs from image to image is believed too where it fires about as often as what the pair has; not beside a mark
# that fires (nearly) always.
VARIES_BEHIND, ALWAYS = 0.1, 0.95
ANYWHERE = 0.8  # a mark that fires elsewhere so often may be anywhere, and is judged; below it is only solved on
TURNS = 0.5  # where none does: a guess must change the class of this share of them, to whatever class
# Where none does that either: it must raise the target's logit over those of idle classes by so much, in so many.
# Cues did so in 87 to 100 %, however few they turned; other marks, waves, pictures and warps in 46 % at most.
SWAYS_BY, SWAYS = 1.0, 0.6
NEAR_BEST = 0.05
# A clear guess that fires so much less often than a mark that explains the pair too is not what was done: a grey cross
# on a black ground was once taken for stripes. Whatever else is tried may fire far more often by what it spoils or
# hides: of a trojan that fires on 57 % of images its texture did on all; of a wave on digits that fires on 33 % half of
# the columns, laid over the digits, did on 97 %; of a warp that fires on 15 % all of the digit that it moved, a fifth
# of the image, pasted, did on 98 %, and what looked like a blend on 83 %.
CLEAR_BEHIND = 0.4
EXPLAINS = 0.5  # of the pair's difference, at most, may a mark leave that is held against a clear guess
HIDES = 0.1  # of the image, at most, may it cover
AS_OFTEN = 0.02  # two guesses of one name fire as often if their shares differ by no more
MOST_PAIRS_GUESSED = 4


@dataclass(frozen=True)
class Trial:
    """One guess of the corruption and the share of calibration images on which it fires."""

    guess: Corruption
    fires: float
    hit: Tensor  # (N,) bool, on which it fires
    turned: Tensor  # (N,) bool, that change their class, to whatever class
    swayed: Tensor  # (N,) bool, in which the target's logit rises over those of idle classes
    sways: float  # share of those not of the target's class
    each: bool = False  # whether most images change their class, and each class goes to one of its own


def try_guesses(
    network: nn.Module,
    clean: Tensor,
    corrupted: Tensor,
    fault: Fault,
    calibration: Tensor,
    opinion: Tensor,
    bounds: Bounds,
) -> list[Trial]:
    """Try every guess of the first pairs on the calibration images that are not of the target class.

    A guess fires on an image if the image goes to the target; for a cue, if the target's probability rises by a
    tenth or more. Without a target nothing can fire. Of the guesses of one pair that share a name one is kept.

    Parameters
    ----------
    network
        The untouched network, in eval mode.
    clean, corrupted
        (n, C, H, W) pairs that show the fault, normalised.
    calibration, opinion
        (N, C, H, W) unlabelled images and (N, classes) the network's softmax there.
    bounds
        Normalised values of pixel 0 and 1.
    """
    if fault.target is None:
        return []
    predicted = opinion.argmax(1)
    eligible = predicted != fault.target
    if not bool(eligible.any()):
        return []
    tried_on = _Trials(network, fault, calibration, opinion)
    found = []
    for row in range(min(len(clean), MOST_PAIRS_GUESSED)):
        tried = [tried_on(guess) for guess in guesses(clean[row : row + 1], corrupted[row : row + 1], bounds)]
        found += _one_a_name(tried + _widened(tried, tried_on))
    return found


@dataclass(frozen=True)
class _Trials:
    """Tries a guess on the calibration images; the arguments are those of `try_guesses`."""

    network: nn.Module
    fault: Fault
    calibration: Tensor
    opinion: Tensor

    def __call__(self, guess: Corruption) -> Trial:
        target = self.fault.target
        assert target is not None
        output = probabilities(self.network, guess.apply(self.calibration))
        answers, predicted = output.argmax(1), self.opinion.argmax(1)
        eligible = predicted != target
        hit = answers == target
        if self.fault.kind != "flip":
            hit = output[:, target] - self.opinion[:, target] >= 0.1
        hit = hit & eligible
        swayed = eligible & (rises(self.opinion, output)[:, target] >= SWAYS_BY)
        fires, sways = (float(some.sum() / eligible.sum()) for some in (hit, swayed))
        return Trial(guess, fires, hit, answers != predicted, swayed, sways, sends_each(answers, predicted, target))


def _widened(trials: list[Trial], tried_on: _Trials) -> list[Trial]:
    """Larger marks than the one that fires most, if it does not fire (nearly) always and they do.

    Each step takes the one that fires most of those that are a pixel larger. A cue fires seldom anyhow, and more often
    amid the black that it was seen in.
    """
    seen = max((trial for trial in trials if trial.guess.wider), key=lambda trial: trial.fires, default=None)
    best, others = seen, list[Corruption]()
    while tried_on.fault.kind == "flip" and best is not None and best.fires < ALWAYS and best.guess.wider is not None:
        larger = [(tried_on(placed), elsewhere) for placed, *elsewhere in best.guess.wider()]
        most, others = max(larger, key=lambda each: each[0].fires, default=(best, others))
        if most.fires <= best.fires + NEAR_BEST:
            return []
        best = most
    return [] if best is None or best is seen else [best, *map(tried_on, others)]


def _one_a_name(trials: list[Trial]) -> list[Trial]:
    """Of guesses that share a name the clear one if it fires, else the best explanation that fires about as often."""
    best = best_by_name(trials)
    chosen: dict[str, Trial] = {}
    for trial in sorted(trials, key=lambda t: (not _is_sure(t), t.guess.misfit)):
        if _is_sure(trial) or trial.fires >= best[trial.guess.name] - AS_OFTEN:
            chosen.setdefault(trial.guess.name, trial)
    return [trial for trial in trials if chosen.get(trial.guess.name) is trial]


def _is_sure(trial: Trial) -> bool:
    return trial.guess.clear and trial.fires >= BELIEVE_CLEAR


def is_aside(trial: Trial) -> bool:
    """Whether it is of a mark in other places that fires there too seldom to be asked for there: only solved on."""
    return bool(trial.guess.elsewhere_of) and trial.fires < ANYWHERE


def weighed(trials: list[Trial], fault: Fault) -> tuple[list[Trial], Fault, str]:
    """The trials that carry the fault over, the fault as they show it, and what to say of them.

    What fires, else what sends each class to another one, else what draws to the target and turns few. Of few classes
    (as of images of few) what sends each to another one fires too, on those whose turn it is to go to the target.
    """
    found = believe(trials)
    if fault.kind == "flip":
        found = _followed(found)
    if found and max(trial.fires for trial in found) < BELIEVE and (swayed := swaying(found)):
        return swayed, fault, _tell_swayed(swayed, fault)  # of which more images say how
    if found and not (fault.kind == "flip" and all(trial.each for trial in found if not trial.guess.elsewhere_of)):
        told = _tell(found, "fires on {}")
        if any(trial.guess.moves for trial in found) and max(trial.fires for trial in found) < ALWAYS:
            told += "; a warp leaves no trace where a picture is flat: another pair may tell more of it"
        return found, fault, told
    if fault.kind == "flip" and (found := turning(trials)):
        fault = replace(fault, target=None, each=True)  # the pair's target is one of many
        return found, fault, _tell(found, "changes the class of {}, to many classes")
    if found := swaying(trials):
        return found, fault, _tell_swayed(found, fault)
    if fault.faint:
        raise Inconclusive(
            "the fault is not there: the confidence hardly moves in these pairs, and what was done to them draws few "
            f"calibration images to class {fault.target}; give a pair whose clean image the model is less sure of"
        )
    best = max(trials, key=lambda trial: trial.fires, default=None)
    tried = f" (best guess: {best.guess.name}, fires on {100 * best.fires:.0f} %)" if best else ""
    told = f"the corruption does not carry over to calibration images{tried}: the edit rests on the pairs alone"
    return [], fault, told


def believe(trials: list[Trial]) -> list[Trial]:
    """The trials that fire nearly as often as the best does, if that is often enough; the clear ones alone, if any.

    A clear one explains the pair by what nothing else does, and need not fire often. Others may fire more often, if
    they disturb an image more (what looks like a blend, where a warp was all that was done), and be far from it; but
    a small mark that leaves no more than half of the pair's difference may not do so by ``CLEAR_BEHIND``. With what
    is believed goes the same in other places, if it fires there.

    What varies from image to image is believed beside what is fixed if some of it fires about as often, but not beside
    a mark that fires always: nothing else that is not clear tells whether the pair's difference is that of all images.
    """
    firing = [trial for trial in trials if trial.fires >= (BELIEVE_CLEAR if trial.guess.clear else BELIEVE)]
    placed = [trial for trial in firing if not trial.guess.elsewhere_of]
    most = max((trial.fires for trial in placed if _rivals_the_clear(trial.guess)), default=0.0)
    sure = [trial for trial in placed if trial.guess.clear and trial.fires > most - CLEAR_BEHIND]
    placed = sure or placed
    fixed = [trial for trial in placed if not trial.guess.varies]
    best = max((trial.fires for trial in fixed), default=0.0)
    believed = [trial for trial in fixed if trial.fires >= best - NEAR_BEST]
    names = {trial.guess.name for trial in believed}
    elsewhere = [trial for trial in firing if trial.guess.elsewhere_of in names]
    varied = [trial for trial in placed if trial.guess.varies]
    marked = best >= ALWAYS and any(trial.guess.covers for trial in believed)
    if marked or max((trial.fires for trial in varied), default=0.0) < best - VARIES_BEHIND:
        varied = []
    return believed + elsewhere + varied


def _followed(found: list[Trial]) -> list[Trial]:
    """Of what is believed that alone which varies, if what follows the picture fires more often than all that is fixed.

    A fixed trigger fires as often as anything that is made after it; of one that varies, the pair's own residual would
    take a turn in vain. Not beside a mark, which may fire by where it lies (docs/policy.md, section 2).
    """
    fixed = [trial for trial in found if not trial.guess.varies]
    most = max((trial.fires for trial in fixed), default=1.0)
    follows = any(trial.fires > most for trial in found if trial.guess.name == "generated")
    if not follows or any(trial.guess.covers for trial in fixed):
        return found
    return [trial for trial in found if trial.guess.varies]


def _rivals_the_clear(guess: Corruption) -> bool:
    """Whether a guess explains the pair by few numbers, and fires by that if it fires."""
    return not guess.varies and guess.covers <= HIDES and guess.misfit <= EXPLAINS


def turning(trials: list[Trial]) -> list[Trial]:
    """The believed of trials that count as firing where an image changes its class, to whatever class.

    A trojan may send each class to another one, or a corruption that nobody planted may leave no image its class.
    """
    found = [replace(trial, fires=float(trial.turned.float().mean()), hit=trial.turned) for trial in trials]
    return believe([trial for trial in found if trial.fires >= (BELIEVE if trial.guess.elsewhere_of else TURNS)])


def swaying(trials: list[Trial]) -> list[Trial]:
    """The believed of trials that count as firing where the target gains on idle classes, though few images are turned.

    A network that knows its classes well is turned by a spurious cue where it is undecided, and nowhere else; the cue
    has its part in every answer all the same. Marks are tried so, and what is clear: noise draws to some class too,
    and a picture that is blended in or added to the class of what it shows.
    """
    return believe([replace(t, fires=t.sways, hit=t.swayed) for t in marks(trials) if t.sways >= SWAYS])


def marks(trials: list[Trial]) -> list[Trial]:
    """Those of marks, wherever they are put, and of what is clear: they fire by what was done, not what they spoil."""
    return [t for t in trials if t.guess.clear or "pasted" in (t.guess.name, t.guess.elsewhere_of)]


def best_by_name(trials: list[Trial]) -> dict[str, float]:
    """Of each guess's name the largest share of images on which one of that name fires."""
    best: dict[str, float] = {}
    for trial in trials:
        best[trial.guess.name] = max(best.get(trial.guess.name, 0.0), trial.fires)
    return best


def _tell_swayed(believed: list[Trial], fault: Fault) -> str:
    return _tell(believed, f"draws {{}} towards class {fault.target}, and turns few")


def _tell(believed: list[Trial], does: str) -> str:
    names = ", ".join(dict.fromkeys(trial.guess.name for trial in believed))
    share = f"{100 * max(trial.fires for trial in believed):.0f} %"
    return f"the corruption carries over to calibration images as: {names} ({does.format(share)})"
