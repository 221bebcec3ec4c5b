"""What a judgement means: whether a repair is whole, good enough to climb no further, doubtful, or worth refining.

Without a label: a judgement is what the calibration images let expect (`rectify.editing.judge`).
"""

from __future__ import annotations

from rectify.editing.judge import Judgement

# A repair is whole when the judge expects no more than this (one image of those judged is always allowed).
MOST_ACCURACY_LOSS = 0.004
MOST_RECOVERY_LOSS = 0.005
MOST_ASR = 0.005
MOST_PULL = 0.003
MOST_DIVERGENCE = 0.008
# Good enough to climb no further: larger rungs could gain what nobody would notice.
GOOD_ACCURACY_LOSS, GOOD_RECOVERY_LOSS, GOOD_PULL = 0.003, 0.006, 0.01
DOUBTFUL_ACCURACY_LOSS, DOUBTFUL_RECOVERY_LOSS, DOUBTFUL_ASR = 0.02, 0.05, 0.03  # a warning says so
WORTH_REFINING = GOOD_ACCURACY_LOSS + GOOD_RECOVERY_LOSS  # lost together: below it a refinement is not begun


def is_whole(judgement: Judgement) -> bool:
    """Whether the judge expects accuracy and recovery to be kept and the attack to be gone."""
    one_clean, one = (1 / max(count, 1) for count in judgement.images)
    return (
        judgement.accuracy_loss <= max(MOST_ACCURACY_LOSS, one_clean)
        and judgement.recovery_loss <= max(MOST_RECOVERY_LOSS, one)
        and (judgement.asr or 0.0) <= max(MOST_ASR, one)
        and (judgement.pull or 0.0) <= max(MOST_PULL, one)
        and judgement.divergence <= MOST_DIVERGENCE
    )


def is_doubtful(judgement: Judgement) -> bool:
    """Whether people should be warned that much of other images is expected to be lost, or open to attack."""
    return (
        judgement.accuracy_loss > DOUBTFUL_ACCURACY_LOSS
        or judgement.recovery_loss > DOUBTFUL_RECOVERY_LOSS
        or (judgement.asr or 0.0) > DOUBTFUL_ASR
    )


def is_good(judgement: Judgement) -> bool:
    """Whether larger edits need not be tried."""
    return (
        judgement.accuracy_loss <= GOOD_ACCURACY_LOSS
        and judgement.recovery_loss <= GOOD_RECOVERY_LOSS
        and (judgement.pull or 0.0) <= GOOD_PULL
    )


def is_worth_refining(judgement: Judgement, partial: bool = False) -> bool:
    """Whether enough is lost that a refinement could win it back.

    Of a fault that sways images more than it turns them (`Case.partial`), anything: its class is one of many, and what
    it loses is too little of the images that judge to be seen there.
    """
    return not is_whole(judgement) and (partial or lost(judgement) > WORTH_REFINING)


def lost(judgement: Judgement) -> float:
    """Expected accuracy and recovery lost together."""
    return judgement.accuracy_loss + judgement.recovery_loss


def tell(judgement: Judgement) -> str:
    """A judgement in a few words."""
    asr = "" if judgement.asr is None else f", attack success {100 * judgement.asr:.1f}%"
    kept = f"{100 * (1 - judgement.recovery_loss):.1f}% of the recovery"
    return f"{100 * (1 - judgement.accuracy_loss):.1f}% of the accuracy and {kept} expected{asr}"
