"""Mistakes and bad luck with `rectify train`: one clear line, the right exit code, nothing lost, never a traceback."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.train_samples import FRESH, NETS, QUICK, one_line, pictures
from tests.conftest import run_here, sha256
from tests.trouble import full_disk, take_rights


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "-o", "m.safetensors", "--data", "data"], "train what? a MODEL to fine-tune, or --arch or --preset"),
        (FRESH, "where to write the trained model? -o model.safetensors"),
        ([*FRESH[:-2], "-o", "m.safetensors"], "train on what? --data DIR"),
        ([*FRESH[:3], "--data", "data", "-o", "m.safetensors"], "how do images become input?"),
        ([*FRESH[:-1], "nowhere", "-o", "m.safetensors"], "no such folder, nor a packaged set"),
        ([*FRESH, "-o", "m.safetensors", "--val", "nowhere"], "nowhere"),
        ([*FRESH, "-o", "m.safetensors", "--num-classes", "5"], "data has 3 folders (a, b, c), and the network 5"),
        ([*FRESH, "-o", "m.safetensors", "--objective", "ig-nrom"], "did you mean ig-norm?"),
        ([*FRESH, "-o", "m.safetensors", "--preset", "mnist-quik"], "did you mean mnist-quick?"),
        ([*FRESH, "-o", "m.safetensors", "--eps", "8"], "must be in pixel units from 0 to 1, not 8; 8 of 255 is 8/255"),
        ([*FRESH, "-o", "m.safetensors", "--eps", "0"], "eps 0 leaves ig-sum-norm no ball to search"),
        ([*FRESH, "-o", "m.safetensors", "--lr", "0"], "--lr must be above 0"),
        ([*FRESH, "-o", "none/m.safetensors"], "no folder none"),
        ([*FRESH, "-o", "/proc/m.safetensors"], "cannot write /proc/m.safetensors: no f"),  # file; or folder
        ([*FRESH, "-o", "data"], "folder"),
        ([*FRESH, "-o", "m.json", "--report", "m.json"], "--report and --out name the same file"),
        (["train", "gone.pt", "--data", "data"], "gone.pt"),
        ([*FRESH[:-1], "mnist", "--num-classes", "5", "-o", "m.safetensors"], "has 10 classes, the network 5"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(words: list[str], told: str, place: Path) -> None:
    one_line(run_here(words, place), told)
    assert not list(place.glob("m.safetensors*"))


def test_a_validation_folder_of_other_classes(place: Path) -> None:
    pictures(place / "other", (1, 1, 1), "abd")
    one_line(run_here([*FRESH, "--val", "other", "-o", "m.safetensors"], place), "--val has other class folders")


def test_the_input_is_never_overwritten(place: Path) -> None:
    assert run_here([*FRESH, *QUICK, "-o", "m.safetensors"], place).code == 0
    before = sha256(place / "m.safetensors")
    one_line(run_here([*FRESH, *QUICK, "-o", "m.safetensors"], place), "exists already: add --force")
    tune = ["train", "m.safetensors", "--data", "data", *QUICK]
    one_line(run_here([*tune, "-o", "m.safetensors", "--force"], place), "m.safetensors")
    (place / "link.safetensors").symlink_to("m.safetensors")
    one_line(run_here([*tune, "-o", "link.safetensors", "--force"], place), "link.safetensors")
    assert sha256(place / "m.safetensors") == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-o", "tr.csv"], "never overwritten"),
        (["-o", "val.csv"], "never overwritten"),
        (["-o", "pp.yaml"], "never overwritten"),
        (["-o", "set.yaml"], "never overwritten"),
        (["-o", "data/a/0.png"], "never overwritten"),
        (["-o", "link"], "never overwritten"),
        (["-o", "tr.csv", "--resume"], "never overwritten"),
        (["-o", "state", "--data", "state.resume"], "never overwritten"),
        (["-o", "m.safetensors", "--report", "set.json", "--config", "set.json"], "never overwritten"),
        (["-o", "m", "--report", "pp.json", "--preprocess", "pp.json"], "never overwritten"),
        (["-o", "m.json", "--report", "m.json.resume"], "m.json.resume"),
        (["-o", "m", "--report", "odd.json", "--data", "odd.csv"], "odd.json is the input odd.json, never overwritten"),
    ],
)  # fmt: skip
def test_no_file_that_was_read_is_overwritten(words: list[str], told: str, place: Path) -> None:
    rows = [f"data/{name}/{number}.png,{label}\n" for label, name in enumerate("ab") for number in range(3)]
    for name in ("tr.csv", "val.csv", "state.resume"):
        (place / name).write_text("image,label\n" + "".join(rows))
    (place / "odd.csv").write_text("image,label\n" + "".join([*rows, "odd.json,0\n"]))
    (place / "odd.json").write_bytes((place / "data/a/0.png").read_bytes())
    for name in ("pp.yaml", "pp.json"):
        (place / name).write_text('{"input_size": [1, 6, 6], "mean": [0], "std": [1]}')
    for name in ("set.yaml", "set.json"):
        (place / name).write_text('{"device": "cpu"}')
    (place / "link").symlink_to("tr.csv")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    start = ["train", "--arch", "nets:net", "--num-classes", "3", "--preprocess", "pp.yaml", "--data", "tr.csv"]
    start += ["--val", "val.csv", "--config", "set.yaml", "--force", *QUICK]
    one_line(run_here([*start, *words], place), told)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_class_without_images_is_told(place: Path) -> None:
    (place / "data" / "d").mkdir()
    words = [*FRESH, *QUICK, "--objective", "natural", "-o", "m.safetensors", "--format", "json"]
    said = run_here([*words, "--attack-samples", "0"], place)
    assert said.code == 0, said.err
    for line in ("class d has no images: nothing is learned of it", "class c has one image"):
        assert line in said.err and line in said.report["run"]["notes"]


def test_the_advice_after_a_loss_that_is_no_number_works(place: Path) -> None:
    words = [*FRESH, *QUICK, "--objective", "natural", "--optimizer", "momentum", "-o", "m.safetensors"]
    said = run_here([*words, "--lr", "1e30"], place)
    assert said.code == 2 and "start anew with --lr 0.001 --force in place of --resume" in said.err
    one_line(run_here([*words, "--lr", "0.001", "--resume"], place), "of a run with --lr 1e+30, not 0.001: resume")
    assert run_here([*words, "--lr", "0.001", "--force"], place).code == 0


def test_a_loss_that_is_no_number_is_one_line_with_a_state_kept(place: Path) -> None:
    words = [word.replace("nets:net", "nets:broken") for word in FRESH]
    said = run_here([*words, *QUICK, "-o", "m.safetensors"], place)
    one_line(said, "holds values that are no numbers at its start")
    words = [*FRESH, *QUICK, "--optimizer", "momentum", "--lr", "1e30", "--save-every", "0", "-o", "m.safetensors"]
    said = run_here([*words, "--objective", "natural"], place)
    assert said.code == 2 and "last good state" in said.err and "m.safetensors.resume" in said.err
    kept = torch.load(place / "m.safetensors.resume", weights_only=True)
    assert all(bool(v.isfinite().all()) for v in kept["model"].values())
    assert not (place / "m.safetensors").exists()


def test_killed_while_it_measures_it_only_measures_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rectify.jobs import train as job

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    words = [*FRESH, *QUICK, "-o", "m.safetensors", "--format", "json"]
    with monkeypatch.context() as patch:
        patch.setattr(job, "_attacked", killed)
        assert run_here(words, place).code == 130
    written = sha256(place / "m.safetensors")  # it is there, and so is the state
    said = run_here([*words, "--resume"], place)
    assert said.code == 0, said.err
    assert said.report["train"]["out"]["sha256"] == written and not (place / "m.safetensors.resume").exists()


def test_an_unwritable_folder_is_found_before_the_work(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rectify.training import loop

    (place / "locked").mkdir()
    take_rights(monkeypatch, place / "locked")
    monkeypatch.setattr(loop, "_step", lambda *_: pytest.fail("a step was taken"))
    one_line(
        run_here([*FRESH, *QUICK, "-o", "locked/m.safetensors"], place), "cannot write locked/m.safetensors.resume"
    )
    assert not list((place / "locked").iterdir())


def test_resume_without_a_state_begins_and_says_so(place: Path) -> None:
    said = run_here([*FRESH, *QUICK, "--resume", "-o", "m.safetensors", "--format", "json"], place)
    assert said.code == 0 and any("no state to resume from" in note for note in said.report["run"]["notes"])


def test_a_broken_picture_is_named(place: Path) -> None:
    (place / "data" / "a" / "9.png").write_bytes(b"no picture")
    one_line(run_here([*FRESH, *QUICK, "-o", "m.safetensors"], place), "9.png")


def test_an_interrupt_says_how_to_go_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rectify.training import loop

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "_step", interrupted)
    said = run_here([*FRESH, *QUICK, "-o", "m.safetensors"], place)
    assert said.code == 130 and "--resume goes on with it" in said.err


# ------------------------------------------------------------------------------------------------------- full disks


SPACE = "No space left on device; make room or rights in"


@pytest.mark.parametrize(
    ("name", "first", "told", "left"),
    [
        ("m.safetensors.resume", 1, "nothing was trained yet", []),
        ("m.safetensors.resume", 4, "the state at the end of epoch 1 is kept in m.safetensors.resume", ["resume"]),
        ("m.safetensors", 1, "the trained state is in m.safetensors.resume, --resume writes it", ["resume"]),
        ("r.html", 1, "cannot write r.html", ["safetensors"]),
    ],
)
def test_a_full_disk_loses_nothing(
    name: str, first: int, told: str, left: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*FRESH, *QUICK, "--save-every", "0", "-o", "m.safetensors", "--report", "r.html"]
    whole = run_here([*FRESH, *QUICK, "-o", "whole.safetensors"], place)
    assert whole.code == 0, whole.err
    with monkeypatch.context() as patch:
        full_disk(patch, name, first)
        said = run_here(words, place)
    assert said.code == 2 and "Traceback" not in said.err
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and SPACE in errors[0] and told in errors[0], said.err
    assert [path.suffix[1:] for path in place.glob("m.*")] == left and not list(place.glob(".*.partial"))
    if left != ["safetensors"]:
        said = run_here([*words, "--resume"], place)
        assert said.code == 0, said.err
    assert sha256(place / "m.safetensors") == sha256(place / "whole.safetensors")
    assert (place / "r.html").exists() == (name != "r.html") and not (place / "m.safetensors.resume").exists()


# ------------------------------------------------------------------------------------------------- networks of users

ODD = """
import torch
from torch import nn
from nets import net


class Inner(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.inner = net(num_classes)
        self.calls = 0


class Two(Inner):
    def forward(self, x):
        return (self.inner(x), x) if self.training else self.inner(x)


class Detached(Inner):
    def forward(self, x):
        return self.inner(x).detach()


class OtherInput(Inner):
    def forward(self, x):
        return self.inner(x.detach())


class Fails(Inner):
    def forward(self, x):
        self.calls += self.training
        if self.calls > 2:
            raise ValueError("no luck")
        return self.inner(x)


class NoWeights(nn.Module):
    def __init__(self, num_classes):
        super().__init__()

    def forward(self, x):
        return x.flatten(1)[:, :3]


def exits(num_classes):
    raise SystemExit(0)
"""


@pytest.mark.parametrize(
    ("name", "objective", "told"),
    [
        ("Two", "natural", "returns a tuple in training: switch auxiliary outputs off (--arch-arg aux_logits=False)"),
        ("Two", "ig-sum-norm", "returns a tuple in training"),
        ("Detached", "natural", "the network's output has no gradient: something in it detaches"),
        ("Detached", "ig-norm", "the network's output has no gradient: something in it detaches"),
        ("OtherInput", "input-gradient", "the network's output has no gradient: something in it detaches"),
        ("Fails", "natural", "the network fails in training: ValueError: no luck (odd.py, line 33); the state at its"),
        ("NoWeights", "natural", "the network has no weights to train: give another --arch"),
        ("exits", "natural", "could not be built with (num_classes=3): SystemExit: 0"),
        ("gone", "natural", "odd has no 'gone'"),
    ],
)
def test_a_network_that_cannot_be_trained(name: str, objective: str, told: str, place: Path) -> None:
    (place / "odd.py").write_text(ODD)
    words = [word.replace("nets:net", f"odd:{name}") for word in FRESH]
    one_line(run_here([*words, *QUICK, "--objective", objective, "-o", "m.safetensors"], place), told)
    assert not (place / "m.safetensors").exists()


def test_the_code_of_a_network_is_never_overwritten(place: Path) -> None:
    (place / "odd.py").write_text(ODD)
    (place / "link.safetensors").symlink_to("odd.py")
    words = [*[word.replace("nets:net", "odd:Inner") for word in FRESH], *QUICK, "--objective", "natural", "--force"]
    words = [word.replace("odd:Inner", "odd:Fails") for word in words]
    for out in ("odd.py", "nets.py", "link.safetensors"):  # nets.py is what odd.py imports
        one_line(run_here([*words, "-o", out], place), f"{out} is code that this command runs, never overwritten")
    assert (place / "odd.py").read_text() == ODD and (place / "nets.py").read_text() == NETS


# ------------------------------------------------------------------------------------------------------ odd folders


def test_one_level_too_high(place: Path) -> None:
    for name in ("train", "Val"):
        shutil.copytree(place / "data", place / "set" / name)
    words = [*FRESH[:-1], "set", *QUICK, "-o", "m.safetensors"]
    one_line(run_here(words, place), "the folders Val, train in set are parts of a data set, not classes: give one of")
    one_line(run_here([*words, "--num-classes", "2"], place), "such as set/train")
    (place / "set" / "Val").rename(place / "set" / "mine")
    said = run_here([*words, "--objective", "natural", "--epochs", "1", "--format", "json"], place)
    assert said.code == 0, said.err
    note = "note: classes mine, train all hold folders a, b, c and no images of their own: if those are the classes"
    assert note in said.err and any(line.startswith(note) for line in said.report["run"]["notes"])


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("data/a", "data/a has 0 class folders: a classifier needs two or more; did you mean data?"),
        ("empty", "empty has 0 class folders: a classifier needs two or more"),
        ("dtaa", "no such folder, nor a packaged set; did you mean data?"),
        ("set.zip", "set.zip is an archive: unpack it"),
        ("nets.py", "nets.py does not say how many classes there are: pass --num-classes N"),
        ("links", "links/a/0.png is a link to gone.png, which is not there"),
        ("cut", "cut/a/0.png is a damaged image"),
        ("zero", "zero/a/0.png is empty (0 bytes), not an image"),
        ("other", "its 3 class folders hold no images"),
    ],
)
def test_what_is_no_labelled_folder(source: str, told: str, place: Path) -> None:
    (place / "empty").mkdir()
    (place / "set.zip").write_bytes(b"PK")
    whole = (place / "data" / "a" / "0.png").read_bytes()
    for name, content in (("cut", whole[:60]), ("zero", b""), ("links", None)):
        shutil.copytree(place / "data", place / name)
        (place / name / "a" / "0.png").unlink()
        if content is None:
            (place / name / "a" / "0.png").symlink_to("gone.png")
        else:
            (place / name / "a" / "0.png").write_bytes(content)
    for name in "abc":
        (place / "other" / name).mkdir(parents=True)
        (place / "other" / name / "0.heic").write_bytes(whole)
    one_line(run_here([*FRESH[:-1], source, *QUICK, "-o", "m.safetensors"], place), told)


def test_a_val_that_is_not_there(place: Path) -> None:
    one_line(run_here([*FRESH, "--val", "vall", "-o", "m.safetensors"], place), "--val: no such file: vall; did you")


def test_a_picture_that_vanishes_in_mid_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that do not fit into memory are read when they are asked for."""
    from rectify.training import data, loop

    monkeypatch.setattr(data, "IN_MEMORY", 0)
    whole = run_here([*FRESH, *QUICK, "-o", "whole.safetensors"], place)
    assert whole.code == 0, whole.err
    picture, close = place / "data" / "b" / "3.png", loop._close_epoch

    def and_move(*args: Any) -> None:
        close(*args)
        picture.rename(place / "away.png")

    words = [*FRESH, *QUICK, "--save-every", "0", "-o", "m.safetensors"]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_close_epoch", and_move)
        said = run_here(words, place)
    one_line(said, "no such file: data/b/3.png")
    assert "is kept in m.safetensors.resume: the same command with --resume goes on with it" in said.err
    (place / "away.png").rename(picture)
    assert run_here([*words, "--resume"], place).code == 0
    assert sha256(place / "m.safetensors") == sha256(place / "whole.safetensors")


# ------------------------------------------------------------------------------------------------------- --resume


def stopped(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A run that was stopped after three of its four steps; its words."""
    from rectify.training import loop

    step, seen = loop._step, [0]

    def until(*args: Any) -> None:
        seen[0] += 1
        if seen[0] == 4:
            raise KeyboardInterrupt
        step(*args)

    words = [*FRESH, *QUICK, "--save-every", "0", "-o", "m.safetensors"]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_step", until)
        said = run_here(words, place)
    assert (
        said.code == 130 and "interrupted: the state at step 1 of epoch 2 is kept in m.safetensors.resume" in said.err
    )
    return words


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--lr", "0.5"], "--lr 0.02, not 0.5"),
        (["--arch-arg", "width=5"], "--arch-arg left out, not width=5"),
        (["--mean", "0.4"], "--preprocess mean=[0.0], not mean=[0.4]"),
        (["--epochs", "4"], "--epochs 2, not 4"),
        (["--objective", "madry"], "--objective ig-sum-norm, not madry"),
        (["--seed", "3"], "--seed 0, not 3"),
        (["--data", "val"], "another --data"),
    ],
)
def test_resume_with_other_settings(more: list[str], told: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = stopped(place, monkeypatch)
    before = sha256(place / "m.safetensors.resume")
    one_line(run_here([*words, *more, "--resume"], place), f"is of a run with {told}: resume with the same settings")
    assert sha256(place / "m.safetensors.resume") == before


def test_a_truncated_state(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = stopped(place, monkeypatch)
    state = place / "m.safetensors.resume"
    whole = state.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        state.write_bytes(whole[:length])
        one_line(run_here([*words, "--resume"], place), "is no state of a training: delete it to start anew")
        assert state.read_bytes() == whole[:length]
    assert run_here([*words, "--force"], place).code == 0


def test_resume_of_what_is_done(place: Path) -> None:
    words = [*FRESH, *QUICK, "-o", "m.safetensors"]
    assert run_here(words, place).code == 0
    before = sha256(place / "m.safetensors")
    one_line(run_here([*words, "--resume"], place), "m.safetensors is there and has no state to go on from: it is done")
    assert sha256(place / "m.safetensors") == before
