"""What is written: equal bytes, whole or not at all, never over the input."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from rectify.errors import OutputError
from rectify.files.checkpoint import check_target, read_checkpoint, read_tensors, write_atomic, write_tensors
from tests.conftest import run_python

METADATA = {"version": "1", "layers": ["a", "b"], "ranks": [1, 2], "nested": {"z": 1, "a": "ü"}, "x": None}


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    base = torch.randn(6, 5)
    return {
        "z.weight": base,
        "half": base.half(),
        "brain": base.bfloat16(),
        "double": base.double(),
        "count": torch.tensor(7),
        "mask": base > 0,
        "byte": torch.arange(5, dtype=torch.uint8),
        "tied": base,
        "view": base.t(),
        "empty": torch.zeros(0, 3),
        'name with ü and "quotes"': torch.ones(1),
    }


def leftovers(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith("."))


def test_round_trip(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "o.safetensors"
    written = write_tensors(path, tensors, METADATA)
    content = path.read_bytes()
    assert (written.path, written.bytes) == (path, len(content))
    assert written.sha256 == sha256(content).hexdigest()
    found, metadata = read_tensors(path)
    assert metadata == METADATA and found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value)
    assert leftovers(tmp_path) == []


def test_equal_input_gives_equal_bytes(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    """Whatever the order of names, of metadata keys, and the process."""
    first = write_tensors(tmp_path / "a.safetensors", tensors, METADATA)
    other = dict(reversed(tensors.items()))
    second = write_tensors(tmp_path / "b.safetensors", other, dict(reversed(METADATA.items())))
    assert first.sha256 == second.sha256
    code = (
        "import sys; from pathlib import Path; from rectify.files.checkpoint import *\n"
        "t, m = read_tensors(Path('a.safetensors')); print(write_tensors(Path('c.safetensors'), t, m).sha256)"
    )
    for seed in ("1",):
        done = run_python(["-c", code], tmp_path, PYTHONHASHSEED=seed)
        assert done.out.strip() == first.sha256, done.err
        (tmp_path / "c.safetensors").unlink()


def test_the_format_itself(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    """Header first, metadata first in it, data aligned, offsets without holes: read with nothing but the format."""
    path = tmp_path / "o.safetensors"
    write_tensors(path, tensors, METADATA)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0 and next(iter(header)) == "__metadata__"
    metadata = header.pop("__metadata__")
    assert list(metadata) == ["format", "rectify"] and metadata["format"] == "pt"
    assert metadata["rectify"] == json.dumps(METADATA, sort_keys=True, separators=(",", ":"))
    position = 0
    for entry in header.values():
        assert entry["data_offsets"][0] == position
        position = entry["data_offsets"][1]
    assert len(content) == 8 + length + position
    start, end = header["z.weight"]["data_offsets"]
    data = content[8 + length + start : 8 + length + end]
    assert data == tensors["z.weight"].numpy().tobytes()


def test_other_tools_read_it(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    write_tensors(tmp_path / "o.safetensors", tensors, {})
    loaded = safetensors.torch.load_file(tmp_path / "o.safetensors")
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())
    with safetensors.safe_open(tmp_path / "o.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "rectify": "{}"}


def test_a_torch_file_becomes_safetensors_bit_by_bit(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model": {"module." + name: value for name, value in tensors.items()}}, tmp_path / "m.pt")
    state = read_checkpoint(tmp_path / "m.pt").state
    write_tensors(tmp_path / "o.safetensors", state, {})
    assert read_checkpoint(tmp_path / "o.safetensors").state.keys() == tensors.keys()


def test_an_existing_file_needs_force(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "o.safetensors"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists already: add --force"):
        write_tensors(path, tensors, {})
    assert path.read_text() == "mine"
    write_tensors(path, tensors, {}, force=True)
    assert read_tensors(path)[0].keys() == tensors.keys()


def _itself(folder: Path) -> Path:
    return folder / "model.pt"


def _dotted(folder: Path) -> Path:
    (folder / "sub").mkdir()
    return folder / "sub" / ".." / "model.pt"


def _symlink(folder: Path) -> Path:
    (folder / "link.pt").symlink_to("model.pt")
    return folder / "link.pt"


def _hard_link(folder: Path) -> Path:
    os.link(folder / "model.pt", folder / "hard.pt")
    return folder / "hard.pt"


def _through_a_linked_folder(folder: Path) -> Path:
    (folder / "there").symlink_to(folder)
    return folder / "there" / "model.pt"


@pytest.mark.parametrize("route", [_itself, _dotted, _symlink, _hard_link, _through_a_linked_folder])
def test_never_over_the_input(route: Callable[[Path], Path], tensors: dict[str, Tensor], tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    model.write_text("input")
    with pytest.raises(OutputError, match=r"is the input .* never overwritten: give -o another name"):
        write_tensors(route(tmp_path), tensors, {}, force=True, never=[tmp_path / "other", model])
    assert model.read_text() == "input" and leftovers(tmp_path) == []


def test_never_over_a_file_of_the_input_folder(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    weights = tmp_path / "hub" / "model.safetensors"
    weights.write_text("input")
    with pytest.raises(OutputError, match="never overwritten"):
        write_tensors(weights, tensors, {}, force=True, never=[tmp_path / "hub"])
    write_tensors(tmp_path / "hub" / "new.safetensors", tensors, {}, never=[tmp_path / "hub"])


def test_a_dangling_link_is_in_the_way_too(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "o.safetensors").symlink_to("nowhere")
    with pytest.raises(OutputError, match="--force"):
        write_tensors(tmp_path / "o.safetensors", tensors, {})
    write_tensors(tmp_path / "o.safetensors", tensors, {}, force=True)
    assert not (tmp_path / "nowhere").exists()


def test_places_that_cannot_be_written(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    places = {
        tmp_path / "file" / "o.safetensors": "is a file, not a folder",
        tmp_path / "file" / "deeper" / "o.safetensors": "is a file, not a folder",
        tmp_path / "no" / "o.safetensors": r"no folder .*type: mkdir -p .*no",
        tmp_path / "folder": r"is a folder: give -o a file name, such as .*folder/out\.safetensors",
        Path("/proc/o.safetensors"): r"cannot write /proc/o\.safetensors: No such file or directory; make room",
        Path("/dev/null"): "device or a pipe",
        tmp_path / ("x" * 300): "cannot write .*its name has 300 bytes, of 255",
    }
    for path, words in places.items():
        with pytest.raises(OutputError, match=words) as caught:
            write_tensors(path, tensors, {}, force=True)
        assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    assert Path("/dev/null").is_char_device() and leftovers(tmp_path) == []


def test_a_long_name_that_is_allowed(tmp_path: Path) -> None:
    write_atomic(tmp_path / ("ü" * 120), "text")
    assert (tmp_path / ("ü" * 120)).read_text() == "text"


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(30, "Read-only file system")])
def test_no_room_leaves_nothing(
    step: str, error: OSError, tensors: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, step, fails)
    with pytest.raises(OutputError, match=f"{error.strerror}; make room or rights in") as caught:
        write_tensors(tmp_path / "o.safetensors", tensors, {})
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_interrupted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "r.json").write_text("old")
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "r.json", "new")
    assert os.listdir(tmp_path) == ["r.json"] and (tmp_path / "r.json").read_text() == "old"


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from rectify.files import atomic
from rectify.files.checkpoint import write_tensors

def stop(*_):
    os.kill(os.getpid(), signal.SIGKILL)

class Slow:
    def __init__(self, file):
        self.file, self.count = file, 0
    def __enter__(self):
        return self
    def __exit__(self, *_):
        self.file.close()
    def write(self, block):
        self.file.write(block)
        self.file.flush()
        self.count += 1
        if self.count == 2:
            stop()
    def __getattr__(self, name):
        return getattr(self.file, name)

if sys.argv[1] == "write":
    fdopen = os.fdopen
    atomic.os.fdopen = lambda *a: Slow(fdopen(*a))
else:
    setattr(atomic.os, sys.argv[1], stop)
write_tensors(Path("o.safetensors"), {"w": torch.ones(1024, 1024)}, {}, force=True)
"""


@pytest.mark.parametrize(
    ("step", "before"), [("write", True), ("write", False), ("fsync", True), ("replace", True), ("replace", False)]
)
def test_killed_in_mid_write(step: str, before: bool, tmp_path: Path) -> None:
    """SIGKILL: the old file stays whole, or there is none; the next run does its work."""
    target = tmp_path / "o.safetensors"
    old = {"w": torch.zeros(2)}
    if before:
        write_tensors(target, old, {})
    assert run_python(["-c", KILLED, step], tmp_path).code == -signal.SIGKILL
    partial = leftovers(tmp_path)
    assert len(partial) == 1 and partial[0].startswith(".o.safetensors.") and partial[0].endswith(".partial")
    if before:
        assert torch.equal(read_tensors(target)[0]["w"], old["w"])
    else:
        assert not target.exists()
    write_tensors(target, {"w": torch.ones(3)}, {}, force=True)
    assert torch.equal(read_tensors(target)[0]["w"], torch.ones(3))


def test_rights_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_write_atomic_refuses_without_force(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", "one")
    write_atomic(tmp_path / "a", "two ü")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "two ü"
    with pytest.raises(OutputError, match="--force"):
        write_atomic(tmp_path / "a", "three", force=False)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"__metadata__": torch.ones(1)}, {}),
        ({"a\udcff": torch.ones(1)}, {}),
        ({"a": torch.ones(1)}, {"x": float("nan")}),
        ({"a": torch.ones(1)}, {"x": object()}),
        ({"a": torch.eye(2).to_sparse()}, {}),
    ],
)
def test_what_safetensors_cannot_hold(tensors: dict[str, Tensor], metadata: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written as safetensors") as caught:
        write_tensors(tmp_path / "o.safetensors", tensors, metadata)
    assert "\n" not in str(caught.value) and os.listdir(tmp_path) == []


def test_a_name_that_is_no_text(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff" * 230 + b".safetensors")  # so long that half-written ones have less of it
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system has no such names")
    write_tensors(path, tensors, {"kind": "model"}, force=True)
    found, metadata = read_tensors(path)
    assert metadata == {"kind": "model"} and found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert leftovers(tmp_path) == []
    write_atomic(tmp_path / "report.md", f"of {path.name[:1]}")
    assert (tmp_path / "report.md").read_text() == "of \\udcff"


def test_a_name_that_is_too_long_is_told_early(tmp_path: Path) -> None:
    check_target(tmp_path / ("模" * 85), force=False)
    with pytest.raises(OutputError, match="its name has 258 bytes, of 255 that a file's name may have; give a shorter"):
        check_target(tmp_path / ("模" * 86), force=False)


def test_a_folder_without_the_right_to_write_is_told_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OutputError, match=r"no right to write in .*; name another folder"):
        check_target(tmp_path / "o.safetensors", force=False)
