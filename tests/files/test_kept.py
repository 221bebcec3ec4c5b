"""Second moments in a folder: what comes back is what was kept, or nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rectify.errors import OutputError
from rectify.files.kept import KeptMoments
from tests.trouble import take_rights

KEY, OTHER, THIRD = "a" * 64, "b" * 64, "c" * 64
SHAPES = {"conv": (2, 3, 3), "layer.fc": (1, 5, 5)}


def moments(scale: float = 1.0) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: scale * torch.randn(shape, dtype=torch.float64) / 3 for name, shape in SHAPES.items()}


def equal(found: dict[str, Tensor] | None, kept: dict[str, Tensor]) -> bool:
    return found is not None and found.keys() == kept.keys() and all(torch.equal(found[n], kept[n]) for n in kept)


def test_what_is_kept_comes_back_bit_by_bit(tmp_path: Path) -> None:
    kept = KeptMoments(tmp_path / "deep" / "moments")
    assert kept.load(KEY, SHAPES) is None
    wanted = {**moments(), "conv": moments()["conv"].transpose(1, 2)}  # strides of its own
    kept.keep(KEY, wanted)
    assert equal(kept.load(KEY, SHAPES), wanted)
    assert os.listdir(tmp_path / "deep" / "moments") == [f"{KEY}.safetensors"]
    read = load_file(tmp_path / "deep" / "moments" / f"{KEY}.safetensors")  # a file as anyone reads it
    assert equal(read, wanted)


def test_another_key_or_other_layers_are_not_it(tmp_path: Path) -> None:
    kept = KeptMoments(tmp_path)
    kept.keep(KEY, moments())
    (tmp_path / f"{OTHER}.safetensors").write_bytes((tmp_path / f"{KEY}.safetensors").read_bytes())
    assert kept.load(OTHER, SHAPES) is None
    assert kept.load(KEY, {**SHAPES, "conv": (1, 3, 3)}) is None
    assert kept.load(KEY, {"conv": SHAPES["conv"]}) is None
    assert kept.load(KEY, SHAPES) is not None


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "flipped", "foreign", "float32", "folder"])
def test_a_damaged_file_counts_as_none_and_is_replaced(damage: str, tmp_path: Path) -> None:
    kept, path = KeptMoments(tmp_path), tmp_path / f"{KEY}.safetensors"
    kept.keep(KEY, moments())
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[:-8])
    elif damage == "flipped":
        content[-20] ^= 1
        path.write_bytes(content)
    elif damage == "foreign":
        save_file(moments(), path)
    elif damage == "float32":
        save_file({name: moment.float() for name, moment in moments().items()}, path)
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(b"" if damage == "empty" else os.urandom(len(content)))
    assert kept.load(KEY, SHAPES) is None
    if damage == "folder":  # left alone: not ours
        with pytest.raises(OutputError):
            kept.keep(KEY, moments())
        return
    kept.keep(KEY, moments(2))
    assert equal(kept.load(KEY, SHAPES), moments(2))


def test_the_ones_that_were_not_used_for_longest_go_first(tmp_path: Path) -> None:
    size = len(_written(tmp_path / "one"))
    kept = KeptMoments(tmp_path / "few", 2 * size + 10)
    (tmp_path / "few").mkdir()
    theirs = tmp_path / "few" / "theirs.safetensors"
    theirs.write_bytes(bytes(10 * size))
    for age, key in ((30, KEY), (20, OTHER)):
        kept.keep(key, moments())
        os.utime(tmp_path / "few" / f"{key}.safetensors", (time.time() - age,) * 2)
    assert kept.load(KEY, SHAPES) is not None  # used now
    kept.keep(THIRD, moments())
    assert kept.load(OTHER, SHAPES) is None and kept.load(KEY, SHAPES) is not None
    assert kept.load(THIRD, SHAPES) is not None and theirs.exists()


def test_the_newest_stays_even_if_it_is_too_large_alone(tmp_path: Path) -> None:
    kept = KeptMoments(tmp_path, 10)
    assert not kept.fits(SHAPES) and KeptMoments(tmp_path).fits(SHAPES)
    kept.keep(KEY, moments())
    kept.keep(OTHER, moments())
    assert os.listdir(tmp_path) == [f"{OTHER}.safetensors"]


def test_what_killed_processes_left_goes_after_an_hour(tmp_path: Path) -> None:
    old, new, theirs = (tmp_path / f".{name}.01234567.partial" for name in (f"{KEY}.safetensors",) * 2 + ("model.pt",))
    new = new.with_name(f".{OTHER}.safetensors.01234567.partial")
    for path in (old, new, theirs):
        path.write_bytes(b"half")
    for path in (old, theirs):
        os.utime(path, (time.time() - 7200,) * 2)
    KeptMoments(tmp_path).keep(THIRD, moments())
    assert not old.exists() and new.exists() and theirs.exists()


@pytest.mark.parametrize("place", ["file", "file/inside", "rights"])
def test_a_folder_that_cannot_be_written_is_one_error(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    if place == "rights":
        (tmp_path / place).mkdir()
        take_rights(monkeypatch, tmp_path / place)
    kept = KeptMoments(tmp_path / place)
    assert kept.load(KEY, SHAPES) is None
    with pytest.raises(OutputError, match=r"cannot write .*: \w"):
        kept.keep(KEY, moments())
    assert kept.load(KEY, SHAPES) is None


def _written(folder: Path) -> bytes:
    KeptMoments(folder).keep(KEY, moments())
    return (folder / f"{KEY}.safetensors").read_bytes()
