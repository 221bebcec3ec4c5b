"""Names of explanation files: one a picture, whatever the images are called."""

from __future__ import annotations

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
    ],
)
def test_each_image_has_a_name_of_its_own(paths: list[str], names: list[str]) -> None:
    assert stems([Path(path) for path in paths]) == names


def test_names_never_meet() -> None:
    paths = [Path(folder, name) for folder in ("clean", "poisoned", "p/clean") for name in ("0.png", "0.jpg", "1.png")]
    names = [name.lower() for name in stems(paths)]
    assert len(set(names)) == len(paths)


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
