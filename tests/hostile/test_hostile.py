"""Every bad file is refused with one clear line, quickly, and no code in it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from rectify.errors import CheckpointError, CorruptCheckpoint, RectifyError
from rectify.files.checkpoint import read_checkpoint, read_tensors
from tests.conftest import run_python
from tests.hostile.make import FILES, Hostile, saved, state


def refused(path: Path, **how: bool) -> str:
    with pytest.raises(RectifyError) as caught:
        read_checkpoint(path, **how)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize("hostile", FILES, ids=lambda each: each.name)
def test_refused_in_one_line(hostile: Hostile, tmp_path: Path) -> None:
    path = tmp_path / hostile.name
    hostile.make(path)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    line = str(caught.value)
    assert type(caught.value) is hostile.error, line
    assert caught.value.exit_code == 2
    assert "\n" not in line and line.isprintable()
    assert len(line) < 400
    assert hostile.name.split(".")[0] in line
    for word in hostile.words:
        assert word in line
    assert "weights_only" not in line and "add_safe_globals" not in line
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("hostile", FILES, ids=lambda each: each.name)
def test_never_a_tensor_file(hostile: Hostile, tmp_path: Path) -> None:
    path = tmp_path / hostile.name
    hostile.make(path)
    with pytest.raises(CheckpointError) as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)
    assert not (tmp_path / "PWNED").exists()


def test_no_cause_is_shown(tmp_path: Path) -> None:
    """A traceback would quote torch's advice if the exception kept it as its visible cause."""
    path = tmp_path / "module.pt"
    path.write_bytes(saved(state(), pickle_protocol=4))
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 20, 100, 300, 700, 1000])
def test_every_truncation_of_a_torch_file(length: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    path.write_bytes(saved(state())[:length])
    assert "\n" not in refused(path)


@pytest.mark.parametrize("length", range(1, 400, 7))
def test_every_truncation_of_a_legacy_file(length: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    path.write_bytes(saved(state(), _use_new_zipfile_serialization=False)[:length])
    assert "\n" not in refused(path)


def test_every_flipped_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    """No flip ends in anything but our own error or a state dict."""
    whole = saved(state(), _use_new_zipfile_serialization=False)
    path = tmp_path / "flip.pt"
    for position in range(0, len(whole), 5):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x21]) + whole[position + 1 :])
        try:
            assert read_checkpoint(path).state
        except RectifyError as error:
            assert "\n" not in str(error) and "weights_only" not in str(error)


def test_trusted_attack_runs_only_when_trusted(tmp_path: Path) -> None:
    """The flag does what it says; without it nothing runs."""
    hostile = next(each for each in FILES if each.name == "system.pt")
    path = tmp_path / hostile.name
    hostile.make(path)
    refused(path)
    assert not (tmp_path / "PWNED").exists()
    assert read_checkpoint(path, trust_pickle=True).trusted_pickle
    assert (tmp_path / "PWNED").exists()


def test_trust_does_not_help_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "cut.pt"
    whole = saved(state())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptCheckpoint):
        read_checkpoint(path, trust_pickle=True)


@pytest.mark.parametrize("name", ["x" * 300, "no/such/folder/model.pt", "bad\nname.pt"])
def test_impossible_paths(name: str, tmp_path: Path) -> None:
    line = refused(tmp_path / name)
    assert "no such file" in line and "\n" not in line


def test_deleted_current_folder(tmp_path: Path) -> None:
    """Even then: an error, not a hang."""
    code = (
        "import os, sys; from pathlib import Path; from rectify.files.words import no_such_file\n"
        "os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); print(no_such_file(Path('a/b.pt')))"
    )
    done = run_python(["-c", code], tmp_path)
    assert done.out.startswith("no such file: a/b.pt"), done.err


def test_the_script_writes_them_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.hostile.make import main

    main(tmp_path / "all")
    assert f"{len(FILES)} files" in capsys.readouterr().out
