"""From edits to a file and back: patched tensors, the delta file, and the check that a file holds just the edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rectify.editing.cascade import LayerEdit
from rectify.errors import OutputError, UsageError
from rectify.files.checkpoint import read_tensors


@dataclass(frozen=True)
class Patch:
    """Tensors to write: the whole state, the names that changed, and how much of the delta the cast lost.

    ``precision_loss`` is ``||written - wanted|| / ||delta||`` over all changed tensors.
    """

    state: dict[str, Tensor]
    changed: tuple[str, ...]
    precision_loss: float


def compact(edit: LayerEdit) -> LayerEdit:
    """The same edit with float32 factors, as a delta file keeps it.

    What is written to the model and what is applied from the delta file start from these same numbers.
    """
    left, right = edit.left, edit.right
    if left.shape[2] > left.shape[1]:  # more columns than the weight has rows: the delta itself is shorter
        identity = torch.eye(left.shape[1], dtype=left.dtype, device=left.device)
        left, right = identity.expand(len(left), -1, -1), edit.delta()
    return LayerEdit(edit.layer, left.float().cpu().contiguous(), right.float().cpu().contiguous())


def patch(state: Mapping[str, Tensor], edits: Sequence[LayerEdit], out_dtype: torch.dtype | None = None) -> Patch:
    """Add the edits to a state dict: sums in float64, one cast to each weight's own type.

    Parameters
    ----------
    state
        The checkpoint's tensors in their original types; never changed.
    edits
        As `compact` makes them.
    out_dtype
        Type of the changed tensors, if not their own.
    """
    wanted: dict[str, Tensor] = {}
    deltas: dict[str, Tensor] = {}
    for edit in edits:
        name = f"{edit.layer}.weight"
        delta = (edit.left.double() @ edit.right.double()).reshape(state[name].shape)
        wanted[name] = wanted.get(name, state[name].double()) + delta
        deltas[name] = deltas.get(name, torch.zeros_like(delta)) + delta
    written = {name: value.to(out_dtype or state[name].dtype) for name, value in wanted.items()}
    lost = sum(float((written[name].double() - wanted[name]).square().sum()) for name in wanted)
    size = sum(float(delta.square().sum()) for delta in deltas.values())
    # A weight that an edit leaves as it was (a delta of zero, or one lost in the cast) has not changed.
    changed = tuple(name for name in written if not same_bits(written[name], state[name]))
    return Patch({**state, **written}, changed, (lost / size) ** 0.5 if size else 0.0)


def check_written(path: Path, state: Mapping[str, Tensor], made: Patch) -> None:
    """Reopen a written file: the edit's tensors hold the edit, all others are bit-identical to the input.

    Raises
    ------
    OutputError
        If the file holds anything else: it must not be trusted.
    """
    tensors, _ = read_tensors(path)
    if tensors.keys() != state.keys():
        raise OutputError(f"{path} does not hold the tensors of the model; the disk may be failing: try another folder")
    differ = {name for name in state if not same_bits(tensors[name], state[name])}
    if differ != set(made.changed) or any(not same_bits(tensors[n], made.state[n]) for n in made.changed):
        raise OutputError(f"{path} does not hold the edit that was made; the disk may be failing: try another folder")


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same bit for bit (NaN included)."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(
        one.detach().contiguous().flatten().view(torch.uint8), other.detach().contiguous().flatten().view(torch.uint8)
    )


def delta_tensors(edits: Sequence[LayerEdit]) -> dict[str, Tensor]:
    """The tensors of a delta file: ``0000.left`` (G, o, r) and ``0000.right`` (G, r, d) a step."""
    tensors = {}
    for number, edit in enumerate(edits):
        tensors[f"{number:04d}.left"], tensors[f"{number:04d}.right"] = edit.left, edit.right
    return tensors


def read_delta(path: Path, state: Mapping[str, Tensor], sha256: str) -> tuple[list[LayerEdit], dict[str, Any]]:
    """The edits of a delta file, and its metadata, after checking that they were made for this model.

    Raises
    ------
    UsageError
        If the file is no delta, was made for another base file, or does not fit the weights, in shape or in type.
    """
    tensors, metadata = read_tensors(path)
    layers = metadata.get("layers")
    if metadata.get("kind") != "delta" or not isinstance(layers, list):
        raise UsageError(f"{path} is no delta file of rectify: write one with rectify edit MODEL … --delta FILE")
    if metadata.get("base_sha256") != sha256:
        raise UsageError(
            f"{path} was made for another model: base sha256 {str(metadata.get('base_sha256'))[:12]}…, "
            f"this model's is {sha256[:12]}…; give the model that it was made from"
        )
    edits = []
    for number, layer in enumerate(layers):
        left, right = (tensors.get(f"{number:04d}.{side}") for side in ("left", "right"))
        weight = state.get(f"{layer}.weight")
        if left is None or right is None or weight is None or left.dim() != 3 or right.dim() != 3:
            raise UsageError(f"{path} does not fit the model: step {number} ({layer}) is missing or has no weight")
        if not (left.is_floating_point() and right.is_floating_point()):
            kinds = " and ".join(sorted({str(side.dtype).removeprefix("torch.") for side in (left, right)}))
            raise UsageError(f"{path} does not fit the model: step {number} ({layer}) holds {kinds}, not real numbers")
        rows, columns = left.shape[0] * left.shape[1], right.shape[2]
        inner = left.shape[2] == right.shape[1] and left.shape[0] == right.shape[0]
        if weight.dim() < 2 or not inner or (rows, columns) != (len(weight), weight[0].numel()):
            raise UsageError(f"{path} does not fit the model: step {number} has another shape than {layer}.weight")
        edits.append(LayerEdit(str(layer), left, right))
    return edits, metadata
