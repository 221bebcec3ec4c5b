"""Names of explanation files: one a picture, whatever the images are called."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from rectify.errors import OutputError
from rectify.files.checkpoint import read_tensors
from rectify.files.explanations import check_files, open_folder, stems, write_map


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.png", "b.png"], ["a", "b"]),
        (["clean/0.png", "poisoned/0.png"], ["clean-0", "poisoned-0"]),
        (["x/a.png", "x/a.jpg", "x/b.png"], ["a-png", "a-jpg", "b"]),
        (["x/y/a.png", "z/y/a.png"], ["a-png-1", "a-png-2"]),
        (["A.png", "a.jpg"], ["A-png", "a-jpg"]),
        (["cat.2.png"], ["cat.2"]),
        (["x/y/a.png", "a-png-1.jpg", "z/y/a.png"], ["a-png-2", "a-png-1", "a-png-3"]),
    ],
)
def test_each_image_has_a_name_of_its_own(paths: list[str], names: list[str]) -> None:
    assert stems([Path(path) for path in paths]) == names


def test_names_never_meet() -> None:
    paths = [Path(folder, name) for folder in ("clean", "poisoned", "p/clean") for name in ("0.png", "0.jpg", "1.png")]
    names = [name.lower() for name in stems(paths)]
    assert len(set(names)) == len(paths)


def test_a_number_gives_no_name_that_is_taken() -> None:
    paths = ["nm/x.png", "nm2/nm/x.png", "nm/x.jpg", "nm/x-png.png", "nm/x-png-1.png"]
    assert len({name.lower() for name in stems([Path(path) for path in paths])}) == len(paths)


def test_names_differ_whatever_the_paths() -> None:
    """Names like those that are made up, in folders like those that go into names; those that are unique stay."""
    draw = random.Random(0)
    folders, ends = ["", "a", "b/a", "A", "a-a", "a-png"], ["png", "PNG", "jpg", "1"]
    names = ["a", "A", "1", "a-1", "a-2", "A-1", "a-png", "a-PNG-1", "a-png-2", "a-a", "a-a-1", "a-a-png-1-1"]
    every = [Path(folder, f"{name}.{end}") for folder in folders for name in names for end in ends]
    for _ in range(3000):
        paths = draw.sample(every, draw.randint(1, 12))
        if draw.random() < 0.1:
            paths += draw.choices(paths, k=3)
        found, plain = stems(paths), [path.stem for path in paths]
        assert len({name.lower() for name in found}) == len(paths), paths
        if len({name.lower() for name in plain}) == len(paths):
            assert found == plain


def test_a_map_is_read_back_as_it_was(tmp_path: Path) -> None:
    values, baseline = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    write_map(tmp_path / "a.uni.safetensors", values.double(), baseline, {"method": "uni"})
    tensors, told = read_tensors(tmp_path / "a.uni.safetensors")
    assert tensors["attribution"].dtype == torch.float32 and torch.equal(tensors["attribution"], values)
    assert torch.equal(tensors["baseline"], baseline) and told == {"method": "uni"}
    write_map(tmp_path / "a.uni.safetensors", values, None, {})
    assert read_tensors(tmp_path / "a.uni.safetensors")[0].keys() == {"attribution"}


def test_what_cannot_be_written_is_said_with_the_flag_to_change(tmp_path: Path) -> None:
    image = tmp_path / "a.ig.png"
    image.write_bytes(b"x")
    with pytest.raises(OutputError, match="--out another folder"):
        check_files([image], [image])
    with pytest.raises(OutputError, match="--out"):
        open_folder(image)
    (tmp_path / "b.ig.png").mkdir()
    with pytest.raises(OutputError, match=r"b\.ig\.png is a folder: give --out another folder$"):
        check_files([tmp_path / "b.ig.png"], [])
