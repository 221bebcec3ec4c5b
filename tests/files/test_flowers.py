"""torchvision's Flowers102 is read as torchvision's own class reads it; what is missing or damaged is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from rectify.errors import ImageError
from rectify.files.flowers import Part, flower_classes, flowers_folder, read_flowers
from rectify.files.images import read_labelled
from rectify.files.preprocess import Preprocess
from rectify.training.data import count_classes, read_to_train
from tests.files.flower_samples import CLASSES, PARTS, flowers

COLOUR = Preprocess((3, 16, 16), (0.0,) * 3, (1.0,) * 3, crop_mode="squash")


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_as_torchvision_reads_it(part: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import Flowers102  # type: ignore[import-untyped]

    folder = flowers(tmp_path)
    monkeypatch.setattr(Flowers102, "_check_integrity", lambda self: True)  # it takes the published files only
    theirs = Flowers102(tmp_path, part)
    paths, labels = read_flowers(folder, part)
    assert paths == theirs._image_files and labels == theirs._labels
    assert labels == [CLASSES[n - 1] - 1 for n in PARTS[{"train": "trnid", "val": "valid", "test": "tstid"}[part]]]


def test_found_from_its_root_and_from_inside(tmp_path: Path) -> None:
    folder = flowers(tmp_path)
    assert flowers_folder(folder) == flowers_folder(tmp_path) == folder
    assert count_classes(tmp_path) == flower_classes(folder) == 3


def test_training_takes_its_part_and_the_validation_part_judges(tmp_path: Path) -> None:
    folder = flowers(tmp_path)
    data, val = read_to_train(tmp_path, COLOUR, 3)
    assert data.labels.tolist() == [0, 2, 1, 0, 2, 1] and val is not None and val.labels.tolist() == [0, 1, 2]
    assert folder / "setid.mat" in data.files and data.images.shape == (6, 3, 16, 16)
    assert read_labelled(tmp_path, COLOUR, 3).labels == (2, 0, 1)  # what evaluate's --data judges: the test part
    with pytest.raises(ImageError, match="has 3 classes, and the network 2"):
        read_labelled(tmp_path, COLOUR, 2)


def test_a_class_folder_called_jpg_is_a_class(tmp_path: Path) -> None:
    for name in ("jpg", "png"):
        (tmp_path / name).mkdir()
    assert flowers_folder(tmp_path) is None and count_classes(tmp_path) == 2


@pytest.mark.parametrize("gone", [("imagelabels.mat",), ("setid.mat",), ("imagelabels.mat", "setid.mat")])
def test_a_file_that_is_missing_is_named(gone: tuple[str, ...], tmp_path: Path) -> None:
    folder = flowers(tmp_path)
    for name in gone:
        (folder / name).unlink()
    with pytest.raises(ImageError, match=f"Flowers102 and has no {' and '.join(gone)}: put it beside jpg/"):
        count_classes(folder)


def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    folder = flowers(tmp_path)
    whole = (folder / "setid.mat").read_bytes()
    for content in (b"", b"no matlab", whole[:200], whole[: len(whole) // 2]):
        (folder / "setid.mat").write_bytes(content)
        with pytest.raises(ImageError, match=r"setid.mat cannot be read .*copy it again|setid.mat has no"):
            read_flowers(folder, "test")
    savemat(folder / "setid.mat", {"other": np.array([1])})
    with pytest.raises(ImageError, match=r"setid.mat has no 'tstid'"):
        read_flowers(folder, "test")
    for numbers, told in (([13], "names image 13, and imagelabels.mat has 12 labels"), ([0], "numbers from 1")):
        savemat(folder / "setid.mat", {"tstid": np.array(numbers)})
        with pytest.raises(ImageError, match=told):
            read_flowers(folder, "test")


def test_a_picture_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = flowers(tmp_path)
    (folder / "jpg" / "image_00010.jpg").unlink()
    with pytest.raises(ImageError, match=r"no such file: .*image_00010.jpg"):
        read_labelled(folder, COLOUR, 3)
