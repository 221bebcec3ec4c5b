"""Messages are one line, whatever is in the names."""

from __future__ import annotations

from pathlib import Path

import pytest

from rectify.files.words import close_files, did_you_mean, listed, nearest, no_such_file, plain, quoted, reason


def test_plain() -> None:
    assert plain("layer4[1]") == "layer4[1]" and plain("ü 中") == "ü 中"
    assert plain("a\nb\x1b[31m\r\u202e") == r"a\nb\x1b[31m\r\u202e"
    assert plain("x" * 200) == "x" * 99 + "…"
    assert plain("bad \udcff") == r"bad \udcff"
    assert plain(Path("/" + "d" * 400 + "/model.pt")).endswith("/model.pt")
    assert quoted("it\n") == r"'it\n'"


def test_listed() -> None:
    assert listed([]) == "" and listed(["a", "b"]) == "a, b"
    assert listed("abcde") == "a, b, c and 2 more"


def test_nearest() -> None:
    assert nearest("ResNet18", ["resnet18", "vgg"])[0] == "resnet18"
    assert did_you_mean("bilnear", ("nearest", "bilinear")) == "did you mean bilinear, nearest?"
    assert did_you_mean("x", ("nearest", "bilinear")) == "one of nearest, bilinear"
    assert did_you_mean("x", ()) == ""


def test_no_such_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.pt").write_text("")
    assert no_such_file(tmp_path / "modle.pt").endswith(f"did you mean {tmp_path}/model.pt?")
    assert no_such_file(tmp_path / "qqqq") == f"no such file: {tmp_path}/qqqq; {tmp_path} holds model.pt"
    assert no_such_file(tmp_path / "no" / "way" / "m.pt").endswith(f"the folder {tmp_path}/no does not exist")
    monkeypatch.chdir(tmp_path)
    assert no_such_file(Path("modl.pt")) == "no such file: modl.pt; did you mean model.pt?"
    assert no_such_file(tmp_path) == f"{tmp_path} is a folder: name a file in it"
    assert no_such_file(Path("/dev/null")) == "/dev/null is neither a file nor a folder: name a file"
    assert no_such_file(Path("none.pt")) == "no such file: none.pt; this folder holds model.pt"
    (tmp_path / "model.pt").unlink()
    (tmp_path / ".hidden").write_text("")
    assert no_such_file(Path("model.pt")) == "no such file: model.pt; this folder holds nothing"


@pytest.mark.parametrize(
    ("name", "there", "close"),
    [
        ("none.png", ["r.layers.png", "before-after.png", "one.png"], ["one.png"]),  # not by the suffix
        ("none.png", ["r.layers.png", "before-after.png"], []),
        ("model.pt", ["model.safetensors", "rectify.yaml"], ["model.safetensors"]),
        ("Model.PT", ["model.pt"], ["model.pt"]),
        ("b.png", ["a.png", "c.png"], []),
        ("image12.png", ["image11.png", "image21.png", "mask.png"], ["image11.png", "image21.png"]),
        ("cat.rectified.safetensors", ["cat.safetensors", "cat.rectified.pt"], ["cat.rectified.pt"]),
        ("pictures", ["picture", "model.pt"], ["picture"]),
    ],
)
def test_only_close_names_are_meant(name: str, there: list[str], close: list[str]) -> None:
    assert close_files(name, there) == close


def test_reason() -> None:
    assert reason(OSError(2, "No such file or directory", "x")) == "No such file or directory"
    assert reason(ValueError("first\nsecond")) == "ValueError: first"
    assert reason(ValueError()) == "ValueError"
