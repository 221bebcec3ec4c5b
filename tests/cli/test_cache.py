"""--cache-dir: the second run is spared the second moments, and says the same to the last byte."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rectify import jobs
from rectify.editing import localize
from tests.cli.train_samples import FRESH, NETS
from tests.conftest import Said, run_here, sha256
from tests.trouble import full_disk

LOCALIZE = ["localize", "model.safetensors", "--clean", "data/a/0.png", "--poisoned", "data/c/0.png"]
LOCALIZE += ["--calibration", "data", "--format", "json", "--no-progress"]
EDIT = ["edit", *LOCALIZE[1:], "--mode", "static", "--force", "-o"]

Counted = list[str]


@pytest.fixture(autouse=True)
def cache_of_each_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another test kept would not be computed here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(place: Path) -> Path:
    """A folder with a trained network, its code and images."""
    quick = ["--epochs", "1", "--objective", "natural", "--attack-samples", "0", "--lr", "0.02", "-q"]
    said = run_here([*FRESH, *quick, "-o", "model.safetensors"], place)
    assert said.code == 0, said.err
    return place


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """A name for each time that second moments are computed."""
    compute, counted = localize.second_moments, Counted()

    def counts(*args: object, **more: object) -> localize.Moments:
        counted.append("computed")
        return compute(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(localize, "second_moments", counts)
    return counted


def told(said: Said) -> str:
    """The report but for what changes from run to run."""
    assert said.code in (0, 3) and '"layers"' in said.out, said.err
    return re.sub(r'"run": \{.*', "", said.out, flags=re.DOTALL)


def test_cold_warm_and_none_say_the_same(folder: Path, computed: Counted) -> None:
    cold, warm, none = (
        run_here([*LOCALIZE, *more], folder) for more in (["--cache-dir", "c"],) * 2 + (["--no-cache"],)
    )
    assert told(cold) == told(warm) == told(none)
    assert len(computed) == 2
    (file,) = (folder / "c" / "moments").iterdir()
    assert re.fullmatch(r"[0-9a-f]{64}\.safetensors", file.name)


def test_verbose_tells_and_nothing_else_does(folder: Path) -> None:
    cold, warm = (run_here([*LOCALIZE, "--cache-dir", "c", "-v"], folder) for _ in range(2))
    assert "kept in c/moments" in cold.err and "from c/moments" in warm.err
    plain = run_here([*LOCALIZE, "--cache-dir", "c"], folder)
    assert told(plain) == told(warm) and "moments" not in plain.err and "cache" not in told(warm)


def test_an_edit_uses_what_localize_kept_and_writes_the_same_bytes(folder: Path, computed: Counted) -> None:
    assert told(run_here([*LOCALIZE, "--cache-dir", "c"], folder))
    warm, none = (
        run_here([*EDIT, name, *more], folder)
        for name, more in (("w.safetensors", ["--cache-dir", "c"]), ("n.safetensors", ["--no-cache"]))
    )
    assert len(computed) == 2  # by localize, and by the edit without a cache
    assert warm.code == none.code == 0, warm.err
    assert sha256(folder / "w.safetensors") == sha256(folder / "n.safetensors")


@pytest.mark.parametrize("said", [None, "", "relative/path", "elsewhere"])
def test_the_users_cache_folder_is_the_default(
    said: str | None, folder: Path, tmp_path: Path, computed: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of XDG_CACHE_HOME, which counts only if it is absolute, else ~/.cache."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if said is None:
        monkeypatch.delenv("XDG_CACHE_HOME")
    else:
        absolute = said == "elsewhere"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / said) if absolute else said)
    for _ in range(2):
        told(run_here(LOCALIZE, folder))
    assert len(computed) == 1
    place = tmp_path / (said if said == "elsewhere" else "home/.cache")
    assert len(list((place / "rectify" / "moments").glob("*.safetensors"))) == 1
    assert said != "elsewhere" or not (tmp_path / "home").exists()
    assert not (folder / "relative").exists()


def test_without_a_home_folder_nothing_is_kept(
    folder: Path, computed: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    one, other = (told(run_here(LOCALIZE, folder)) for _ in range(2))
    assert one == other and len(computed) == 2


CHANGES = ("weights", "images", "sample", "batch", "preprocess", "code", "fewer")
HOW = {  # how the numbers are computed, and another answer to it
    "layout": ("rectify.jobs.moments.LAYOUT", 77),
    "positions": ("rectify.jobs.moments.POSITIONS", 4),
    "threads": ("torch.get_num_threads", lambda: 77),
    "instructions": ("torch.backends.cpu.get_cpu_capability", lambda: "AVX77"),
    "precision": ("torch.get_float32_matmul_precision", lambda: "medium"),
    "torch": ("torch.__version__", torch.__version__.partition("+")[0] + "+other"),
}


@pytest.mark.parametrize("change", [*CHANGES, *HOW])
def test_whatever_changes_the_numbers_is_computed_anew(
    change: str, folder: Path, computed: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*LOCALIZE, "--cache-dir", "c"]
    if change == "sample":
        monkeypatch.setattr(jobs.scene, "MOST_CALIBRATION", 6)
    before = run_here(words, folder)
    if change == "weights":
        train = [*FRESH, "--epochs", "2", "--objective", "natural", "--attack-samples", "0", "-q", "--force"]
        assert run_here([*train, "-o", "model.safetensors"], folder).code == 0
    elif change == "images":
        (folder / "data/b/0.png").write_bytes((folder / "val/a/1.png").read_bytes())
    elif change == "fewer":
        (folder / "data/b/0.png").unlink()
    elif change == "sample":
        words += ["--seed", "1"]
    elif change == "batch":
        words += ["--batch-size", "3"]
    elif change == "preprocess":
        words += ["--std", "0.5"]
    elif change in HOW:
        monkeypatch.setattr(*HOW[change])
    else:  # the same tensors, arguments and names, and another network
        (folder / "nets.py").write_text(NETS.replace("nn.ReLU()", "nn.Hardtanh()"))
        sys.modules.pop("nets")
    after = run_here(words, folder)
    assert told(before) and told(after)
    assert len(computed) == 2, change
    assert len(list((folder / "c" / "moments").iterdir())) == 2


def test_a_damaged_file_is_computed_anew_and_replaced(folder: Path, computed: Counted) -> None:
    words = [*LOCALIZE, "--cache-dir", "c"]
    cold = run_here(words, folder)
    (file,) = (folder / "c" / "moments").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    assert told(run_here(words, folder)) == told(cold) and file.read_bytes() == whole
    assert told(run_here(words, folder)) == told(cold) and len(computed) == 2


def in_the_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "c").write_text("a file")


def full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_disk(monkeypatch, "*.safetensors")  # localize writes no other tensors


@pytest.mark.parametrize("trouble", [in_the_way, full])
def test_a_folder_that_cannot_be_used_is_a_note(
    trouble: Callable[..., None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = run_here([*LOCALIZE, "--no-cache"], folder)
    trouble(folder, monkeypatch)
    said = run_here([*LOCALIZE, "--cache-dir", "c"], folder)
    assert told(said) == told(none) and said.code == none.code
    (note,) = [line for line in said.err.splitlines() if "moments" in line]
    assert note.startswith("note: second moments are not kept for the next run: cannot write")
    assert not list(folder.glob("c/moments/*"))
    quiet = run_here([*LOCALIZE, "--cache-dir", "c", "-q"], folder)
    assert told(quiet) == told(none) and "moments" not in quiet.err


def test_moments_beyond_the_bound_are_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rectify.files.kept.KeptMoments.fits", lambda *_: False)
    said = run_here([*LOCALIZE, "--cache-dir", "c", "-v"], folder)
    assert told(said) and "more than 2 GiB, not kept" in said.err and not (folder / "c").exists()
