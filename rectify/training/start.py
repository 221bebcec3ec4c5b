"""Where a training starts: a network with fresh weights, as a subject like one that was read from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rectify.files.architectures import Subject, build, give_shapes, resolve_device, try_out
from rectify.files.checkpoint import Checkpoint
from rectify.files.preprocess import Preprocess
from rectify.model.mend import keep_input, mend_batch_norm


def fresh_subject(
    arch: str,
    preprocess: Preprocess,
    *,
    num_classes: int,
    arch_args: Mapping[str, Any] | None = None,
    device: str = "auto",
    seed: int = 0,
) -> Subject:
    """Build a network whose weights are those of the seed.

    The subject's checkpoint is empty, and its path ``fresh weights``: there is no file yet.

    Raises
    ------
    ArchitectureError, PreprocessError, UsageError
        As in `open_subject`.
    """
    place = resolve_device(device)
    torch.manual_seed(seed)
    args = dict(arch_args or {})
    network = build(arch, num_classes=num_classes, arch_args=args).float().eval()
    give_shapes(network, preprocess)
    mend_batch_norm(network)
    keep_input(network)
    network.to(place)
    count, notes = try_out(network, preprocess, place, num_classes, trained=False)
    nothing = Checkpoint(path=Path("fresh weights"), sha256="", state={}, used="fresh weights")
    return Subject(network, nothing, arch, args, count, preprocess, place, notes)
