"""Pictures, pairs and folders: read as a person sees them, refused by name where they cannot be used."""

from __future__ import annotations

import hashlib
import os
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from rectify.errors import ImageError, RectifyError, UsageError
from rectify.files.images import ImageSet, read_folder, read_image, read_images, read_labelled, read_pairs
from rectify.files.preprocess import Preprocess

Write = Callable[..., Path]
PLAIN = Preprocess((3, 8, 8), (0.0,) * 3, (1.0,) * 3)
GREY = Preprocess((1, 8, 8), (0.0,), (1.0,))


def bytes_of(path: Path, preprocess: Preprocess = PLAIN) -> np.ndarray:
    """(H, W, C) uint8 as the network would see it."""
    return (read_image(path, preprocess) * 255).round().byte().permute(1, 2, 0).numpy()


def refused(call: Callable[[], object], error: type[RectifyError] = ImageError) -> str:
    with pytest.raises(error) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and line.isprintable() and caught.value.exit_code == 2
    return line


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "tif", "gif", "ppm"])
def test_formats(suffix: str, tmp_path: Path) -> None:
    picture = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    how: Any = {"lossless": True} if suffix == "webp" else {}
    picture.convert("L" if suffix == "gif" else "RGB").save(tmp_path / f"a.{suffix}", **how)
    assert np.array_equal(bytes_of(tmp_path / f"a.{suffix}")[..., 0], np.asarray(picture))


def test_suffix_does_not_matter_to_a_named_file(picture: Write, tmp_path: Path) -> None:
    path = picture("a.png")
    path.rename(tmp_path / "a.dat")
    assert read_image(tmp_path / "a.dat", PLAIN).shape == (3, 8, 8)


def test_exif_rotation(tmp_path: Path) -> None:
    values = np.zeros((8, 8, 3), dtype=np.uint8)
    values[0, 0] = 255
    upright = Image.fromarray(values)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn by 90 degrees
    upright.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(bytes_of(tmp_path / "a.png"), np.asarray(upright.rotate(-90)))
    with Image.open(tmp_path / "a.png") as opened:
        assert np.array_equal(bytes_of(tmp_path / "a.png"), np.asarray(ImageOps.exif_transpose(opened)))


def test_palette(tmp_path: Path) -> None:
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([0, 0, 0, 10, 20, 30])
    picture.save(tmp_path / "a.png")
    assert (bytes_of(tmp_path / "a.png") == [10, 20, 30]).all()


def test_transparency_goes_over_white(tmp_path: Path) -> None:
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    half.paste((10, 20, 30, 255), (0, 0, 4, 8))
    half.save(tmp_path / "rgba.png")
    half.getchannel("A").save(tmp_path / "x.png")
    Image.merge("LA", (Image.new("L", (8, 8), 7), half.getchannel("A"))).save(tmp_path / "la.png")
    index = Image.new("P", (8, 8), 0)
    index.putpalette([0, 0, 0, 10, 20, 30])
    index.paste(1, (0, 0, 4, 8))
    index.save(tmp_path / "p.png", transparency=0)
    rgb = Image.new("RGB", (8, 8), (0, 0, 0))
    rgb.paste((10, 20, 30), (0, 0, 4, 8))
    rgb.save(tmp_path / "rgb.png", transparency=(0, 0, 0))
    for name in ("rgba.png", "p.png", "rgb.png"):
        found = bytes_of(tmp_path / name)
        assert (found[:, :4] == [10, 20, 30]).all() and (found[:, 4:] == 255).all(), name
    grey = bytes_of(tmp_path / "la.png", GREY)
    assert (grey[:, :4] == 7).all() and (grey[:, 4:] == 255).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_is_scaled_not_cut(suffix: str, tmp_path: Path) -> None:
    values = (np.arange(64, dtype=np.uint32) * 65535 // 63).astype(np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    found = bytes_of(tmp_path / f"a.{suffix}", GREY)[..., 0].astype(int)
    assert (np.abs(found - values / 257.0) <= 0.5).all() and found[0, 0] == 0 and found[-1, -1] == 255
    assert (bytes_of(tmp_path / f"a.{suffix}")[..., 1] == found).all()  # grey shown in colour


def test_one_bit(tmp_path: Path) -> None:
    Image.fromarray(np.eye(8, dtype=bool)).save(tmp_path / "a.png")
    assert np.array_equal(bytes_of(tmp_path / "a.png", GREY)[..., 0], np.eye(8, dtype=np.uint8) * 255)


def test_print_colours(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.jpg", quality=95)
    assert (bytes_of(tmp_path / "a.jpg") > 250).all()


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_first_frame(suffix: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), (value, value, value)) for value in (10, 200)]
    how: Any = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **how)
    assert (np.abs(bytes_of(tmp_path / f"a.{suffix}").astype(int) - 10) <= 3).all()


def bad_images(folder: Path, picture: Write) -> dict[str, str]:
    """Files that are no usable image, and what must be said."""
    whole = picture("whole.png", size=(64, 64)).read_bytes()
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("this is no image")
    (folder / "random.png").write_bytes(random.Random(0).randbytes(3000))
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "head.png").write_bytes(whole[:20])
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    (folder / "flipped.png").write_bytes(flipped)
    size = (60000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    header = b"\x00\x00\x00\x0dIHDR" + size + zlib.crc32(b"IHDR" + size).to_bytes(4, "big")
    (folder / "bomb.png").write_bytes(whole[:8] + header + whole[33:])
    Image.fromarray(np.zeros((8, 8), dtype=np.float32)).save(folder / "float.tif")
    (folder / "folder.png").mkdir()
    return {
        "empty.png": "empty",
        "text.png": "no image",
        "random.png": "no image",
        "cut.png": "damaged",
        "head.png": "",
        "flipped.png": "damaged",
        "bomb.png": "too many pixels",
        "float.tif": "floating-point",
        "folder.png": "is a folder",
        "whol.png": "did you mean",
    }


def test_bad_images(tmp_path: Path, picture: Write) -> None:
    for name, words in bad_images(tmp_path, picture).items():
        line = refused(lambda name=name: read_image(tmp_path / name, PLAIN))  # type: ignore[misc]
        assert name in line and words in line


def test_what_may_never_end_is_not_read(fifo: Path, picture: Write) -> None:
    good, folder = picture("a.png"), fifo.parent
    calls: list[Callable[[], object]] = [
        lambda: read_image(fifo, PLAIN),
        lambda: read_images([fifo], PLAIN),
        lambda: read_images([Path("/dev/zero")], PLAIN),
        lambda: read_folder(folder, PLAIN),
        lambda: read_folder(fifo, PLAIN),
        lambda: read_labelled(fifo, PLAIN, 10),
        lambda: read_pairs([good], [fifo], None, PLAIN),
        lambda: read_pairs([], [], fifo, PLAIN),
        lambda: read_pairs([], [], Path("/dev/zero"), PLAIN),
    ]
    for call in calls:
        assert "is neither a file nor a folder: give " in refused(call)
    (folder / "p.csv").write_text("clean,poisoned\na.png,fifo.png\n")
    line = refused(lambda: read_pairs([], [], folder / "p.csv", PLAIN))
    assert line.endswith("p.csv, line 2: " + f"{fifo} is neither a file nor a folder: name a file")


def test_pairs_that_a_shell_hands_over(picture: Write) -> None:
    good, other = picture("a.png"), picture("b.png", 1)
    end, start = os.pipe()
    os.write(start, f"clean,poisoned\n{good},{other}\n".encode())
    os.close(start)
    try:
        assert len(read_pairs([], [], Path(f"/dev/fd/{end}"), PLAIN)) == 1
    finally:
        os.close(end)


def test_pairs_by_order(picture: Write) -> None:
    clean = [picture("c1.png", 1), picture("c2.png", 2)]
    other = [picture("p1.png", 3), picture("p2.png", 4)]
    pairs = read_pairs(clean, other, None, PLAIN)
    assert len(pairs) == 2 and pairs.labels is None
    assert pairs.clean.shape == pairs.corrupted.shape == (2, 3, 8, 8)
    assert torch.equal(pairs.clean[1], read_image(clean[1], PLAIN))
    assert torch.equal(pairs.corrupted[0], read_image(other[0], PLAIN))
    assert pairs.names == tuple((str(a), str(b)) for a, b in zip(clean, other, strict=True))


def test_sha256_is_of_the_content(picture: Write, tmp_path: Path) -> None:
    """Not of the paths; and it changes with the order, the sides and the labels."""
    a, b, c = picture("a.png", 1), picture("b.png", 2), picture("c.png", 3)
    first = read_pairs([a], [b], None, PLAIN).sha256
    copies = [tmp_path / "x" / "clean" / "n.png", tmp_path / "x" / "poisoned" / "n.png"]
    for copy, source in zip(copies, (a, b), strict=True):
        copy.parent.mkdir(parents=True)
        copy.write_bytes(source.read_bytes())
    (tmp_path / "p.csv").write_text("clean,poisoned\na.png,b.png\n")
    (tmp_path / "l.csv").write_text("clean,poisoned,label\na.png,b.png,3\n")
    assert read_pairs([], [], tmp_path / "x", PLAIN).sha256 == first
    assert read_pairs([], [], tmp_path / "p.csv", PLAIN).sha256 == first
    assert read_pairs([a], [b], None, GREY).sha256 == first
    others = [
        read_pairs([b], [a], None, PLAIN).sha256,
        read_pairs([a], [c], None, PLAIN).sha256,
        read_pairs([a, a], [b, c], None, PLAIN).sha256,
        read_pairs([a, a], [c, b], None, PLAIN).sha256,
        read_pairs([], [], tmp_path / "l.csv", PLAIN).sha256,
    ]
    assert len({first, *others}) == 6
    digest = hashlib.sha256()
    for path in (a, b):
        digest.update(path.stat().st_size.to_bytes(8, "little") + path.read_bytes())
    assert first == digest.hexdigest()


def test_pairs_that_do_not_fit(picture: Write, tmp_path: Path) -> None:
    a, b, wide = picture("a.png", 1), picture("b.png", 2), picture("wide.png", 3, (9, 8))
    assert "matched by order" in refused(lambda: read_pairs([a, b], [b], None, PLAIN))
    assert "2 image(s) and --poisoned 0" in refused(lambda: read_pairs([a, b], [], None, PLAIN))
    assert "is 8x8 and" in refused(lambda: read_pairs([a], [wide], None, PLAIN))
    assert "are the same image" in refused(lambda: read_pairs([a], [a], None, PLAIN))
    (tmp_path / "copy.bmp").write_bytes(b"")
    Image.open(a).save(tmp_path / "copy.bmp")
    assert "are the same image" in refused(lambda: read_pairs([a], [tmp_path / "copy.bmp"], None, PLAIN))
    assert "no pair" in refused(lambda: read_pairs([], [], None, PLAIN), UsageError)
    assert "not both" in refused(lambda: read_pairs([a], [b], tmp_path, PLAIN), UsageError)


def test_a_trigger_that_the_crop_cuts_off(tmp_path: Path) -> None:
    clean = Image.new("RGB", (40, 40), (9, 9, 9))
    clean.save(tmp_path / "a.png")
    clean.putpixel((0, 0), (255, 0, 0))
    clean.save(tmp_path / "b.png")
    crop = Preprocess((3, 40, 40), (0.0,) * 3, (1.0,) * 3, 0.5)
    line = refused(lambda: read_pairs([tmp_path / "a.png"], [tmp_path / "b.png"], None, crop))
    assert "same image once resized and cropped: check --input-size and --crop-pct" in line


@pytest.mark.parametrize("other", ["poisoned", "corrupted"])
def test_pairs_in_a_folder(other: str, picture: Write, tmp_path: Path) -> None:
    for number in (10, 9, 1):
        picture(f"set/clean/sub/{number}.png", number)
        picture(f"set/{other}/sub/{number}.png", number + 100)
    picture("set/clean/.hidden.png")
    (tmp_path / "set" / "clean" / "notes.txt").write_text("x")
    pairs = read_pairs([], [], tmp_path / "set", PLAIN)
    assert [Path(name).name for name, _ in pairs.names] == ["1.png", "10.png", "9.png"]
    assert all(Path(a).name == Path(b).name for a, b in pairs.names)
    lone = picture(f"set/{other}/z.png")
    line = refused(lambda: read_pairs([], [], tmp_path / "set", PLAIN))
    assert f"{other}/z.png has no partner in clean/" in line
    lone.rename(tmp_path / "set" / "clean" / "z.png")
    assert f"clean/z.png has no partner in {other}/" in refused(lambda: read_pairs([], [], tmp_path / "set", PLAIN))


def test_pair_folders_that_are_none(picture: Write, tmp_path: Path) -> None:
    picture("set/clean/a.png")
    line = refused(lambda: read_pairs([], [], tmp_path / "set", PLAIN))
    assert "needs two folders, clean/ and poisoned/" in line
    (tmp_path / "empty" / "clean").mkdir(parents=True)
    (tmp_path / "empty" / "poisoned").mkdir()
    assert "hold no images" in refused(lambda: read_pairs([], [], tmp_path / "empty", PLAIN))
    assert "no such file" in refused(lambda: read_pairs([], [], tmp_path / "sett", PLAIN))


def test_csv_of_pairs(picture: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        picture(f"data/i/{number}.png", number)
    path = tmp_path / "data" / "pairs.csv"
    monkeypatch.chdir("/")
    texts = {
        "clean,poisoned,label\ni/0.png,i/1.png,3\n\ni/2.png,i/3.png,0\n": [3, 0],
        "\ufeffClean , Poisoned\r\ni/0.png, i/1.png\r\ni/2.png,i/3.png\r\n": None,
        "label;corrupted;clean\n3;i/1.png;i/0.png\n4;i/3.png;i/2.png": [3, 4],
        "note,clean,poisoned\nx,i/0.png,i/1.png\ny,i/2.png,i/3.png\n": None,
        'clean,poisoned,label\n"i/0.png",i/1.png,\ni/2.png,i/3.png,\n': None,
    }
    for text, labels in texts.items():
        path.write_text(text, encoding="utf-8")
        pairs = read_pairs([], [], path, PLAIN)
        assert len(pairs) == 2
        assert torch.equal(pairs.clean[0], read_image(tmp_path / "data" / "i" / "0.png", PLAIN))
        assert torch.equal(pairs.corrupted[1], read_image(tmp_path / "data" / "i" / "3.png", PLAIN))
        assert (None if pairs.labels is None else pairs.labels.tolist()) == labels
        assert pairs.labels is None or pairs.labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "header clean,poisoned"),
        ("0.png,1.png\n", "the first line must be the header clean,poisoned; it is '0.png,1.png'"),
        ("clean,poisoned\n", "has a header and no rows"),
        ("clean,poisoned\n0.png,\n", "line 2: a path is missing"),
        ("clean,poisoned\n0.png\n", "line 2: a path is missing"),
        ("clean,poisoned\n0.png,1.png\n0.png,q.png\n", "line 3: no such file"),
        ("clean,poisoned,label\n0.png,1.png,cat\n", "line 2: the label 'cat' is not a class index"),
        ("clean,poisoned,label\n0.png,1.png,-1\n", "is not a class index"),
        ("clean,poisoned,label\n0.png,1.png,1.5\n", "is not a class index"),
        ("clean,poisoned,label\n0.png,1.png,1\n2.png,3.png,\n", "line 3: the label is missing"),
        ("clean,poisoned,label\n0.png,1.png,99999999999999999999\n", "is not a class index"),
        ("clean,poisoned,label,label\n0.png,1.png,1,2\n", "two columns are called label; keep one"),
        ("clean,poisoned,class\n0.png,1.png,3\n", "unknown column 'class'; did you mean label"),
        ("clean,poisoned,lable\n0.png,1.png,1\n", "unknown column 'lable'; did you mean label"),
        ("clean,poisoned\n" + "x" * 5000 + ",1.png\n", "line 2: no such file"),
    ],
)
def test_broken_csv(text: str, words: str, picture: Write, tmp_path: Path) -> None:
    for number in range(4):
        picture(f"{number}.png", number)
    (tmp_path / "p.csv").write_text(text)
    line = refused(lambda: read_pairs([], [], tmp_path / "p.csv", PLAIN))
    assert words in line and "p.csv" in line


@pytest.mark.parametrize("size", [(400_000, 1), (1, 400_000)])
def test_a_picture_that_is_too_long_once_resized_is_told(size: tuple[int, int], picture: Write, tmp_path: Path) -> None:
    long, plain_one = picture("long.png", size=size), picture("a.png", size=size)
    wide = Preprocess((3, 32, 32), (0.5,) * 3, (0.25,) * 3)
    resized = "x".join(str(32 * side) for side in size)
    told = f"has {size[0]}x{size[1]} pixels, and {resized} once it is resized for the network, which do not fit into"
    assert told in refused(lambda: read_image(long, wide))
    assert told in refused(lambda: read_pairs([long], [plain_one], None, wide))


def test_a_label_that_the_network_does_not_have_is_told_with_its_line(picture: Write, tmp_path: Path) -> None:
    for number in range(4):
        picture(f"{number}.png", number)
    (tmp_path / "p.csv").write_text("clean,poisoned,label\n0.png,1.png,9\n\n2.png,3.png,10\n")
    line = refused(lambda: read_pairs([], [], tmp_path / "p.csv", PLAIN, 10))
    assert "p.csv, line 4: label 10 of a network of 10 classes; labels are 0 to 9: give the class of" in line
    pairs = read_pairs([], [], tmp_path / "p.csv", PLAIN, 11)
    assert pairs.labels is not None and pairs.labels.tolist() == [9, 10]


def test_csv_that_is_none(tmp_path: Path, picture: Write) -> None:
    for encoding in ("utf-16", "latin-1"):
        (tmp_path / "u.csv").write_text("clean,poisoned\né.png,b.png\n", encoding=encoding)
        line = refused(lambda: read_pairs([], [], tmp_path / "u.csv", PLAIN))
        assert line.endswith("u.csv cannot be read as a CSV file: it is not UTF-8; save it as UTF-8")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00clean")
    assert "cannot be read as a CSV" in refused(lambda: read_pairs([], [], tmp_path / "b.csv", PLAIN))
    assert "cannot be read as a CSV" in refused(lambda: read_pairs([], [], picture("a.png"), PLAIN))
    (tmp_path / "n.csv").write_text('clean,poisoned\n"' + "x" * 200000)
    assert "cannot be read as a CSV" in refused(lambda: read_pairs([], [], tmp_path / "n.csv", PLAIN))


def test_folder(picture: Write, tmp_path: Path) -> None:
    for name in ("s/b.png", "s/a.JPG", "s/deep/er/c.webp", "s/.hidden/d.png", "s/__MACOSX/e.png", "s/._f.png"):
        picture(name, len(name))
    (tmp_path / "s" / "readme.md").write_text("x")
    found = read_folder(tmp_path / "s", PLAIN)
    assert [path.name for path in found.paths] == ["a.JPG", "b.png", "c.webp"]
    assert len(found) == 3 and found.labels is None and found.classes is None
    ((images, labels),) = found.batches(10)
    assert images.shape == (3, 3, 8, 8) and labels is None
    assert torch.equal(images[1], read_image(tmp_path / "s" / "b.png", PLAIN))


def test_every_suffix_of_a_folder_is_one_that_can_be_read(picture: Write, tmp_path: Path) -> None:
    suffixes = {suffix for suffix in (".jfif", ".avif") if suffix in Image.registered_extensions()}
    for suffix in suffixes:
        picture(f"s/a{suffix}", 3)
    found = read_folder(tmp_path / "s", PLAIN)
    assert {path.suffix for path in found.paths} == suffixes and ".jfif" in suffixes
    assert next(found.batches(2))[0].shape[1:] == (3, 8, 8)


def test_folder_with_a_loop_of_links(picture: Write, tmp_path: Path) -> None:
    picture("s/a.png")
    picture("elsewhere/b.png", 1)
    (tmp_path / "s" / "loop").symlink_to(tmp_path / "s")
    (tmp_path / "s" / "there").symlink_to(tmp_path / "elsewhere")
    assert len(read_folder(tmp_path / "s", PLAIN)) == 2


def test_folders_that_are_none(picture: Write, tmp_path: Path) -> None:
    path = picture("a.png")
    assert "is a file" in refused(lambda: read_folder(path, PLAIN))
    assert "no such file" in refused(lambda: read_folder(tmp_path / "x", PLAIN))
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused(lambda: read_folder(tmp_path / "empty", PLAIN))


def test_batches(picture: Write, tmp_path: Path) -> None:
    for number in range(7):
        picture(f"s/{number}/{number}.png", number)
    found = read_labelled(tmp_path / "s", PLAIN, 10)
    batches = list(found.batches(3))
    assert [len(images) for images, _ in batches] == [3, 3, 1]
    assert torch.cat([labels for _, labels in batches if labels is not None]).tolist() == list(range(7))
    whole = torch.cat([images for images, _ in batches])
    assert torch.equal(whole, torch.stack([read_image(path, PLAIN) for path in found.paths]))
    assert torch.equal(whole, found.stack())
    assert "--batch-size 0" in refused(lambda: next(found.batches(0)), UsageError)
    first = next(found.batches(2))  # abandoned in the middle: no thread is left waiting
    assert len(first[0]) == 2


def test_sample(picture: Write, tmp_path: Path) -> None:
    for number in range(12):
        picture(f"s/{number:02}.png", number)
    found = read_folder(tmp_path / "s", PLAIN)
    whole = found.stack()
    five = found.stack(5, seed=3)
    places = [next(i for i in range(12) if torch.equal(whole[i], image)) for image in five]
    assert len(set(places)) == 5 and places == sorted(places)
    assert torch.equal(five, found.stack(5, seed=3)) and not torch.equal(five, found.stack(5, seed=4))
    assert torch.equal(found.stack(100), whole)


def test_a_damaged_image_in_a_set_is_named(picture: Write, tmp_path: Path) -> None:
    picture("s/a.png")
    (tmp_path / "s" / "b.png").write_bytes(b"broken")
    found = read_folder(tmp_path / "s", PLAIN)
    assert "b.png" in refused(lambda: list(found.batches(1)))
    assert "b.png" in refused(found.stack)


def test_named_classes_in_sorted_order(picture: Write, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder  # type: ignore[import-untyped]

    for name in ("dog", "Cat", "10", "9"):
        picture(f"s/{name}/x.png", len(name))
        picture(f"s/{name}/sub/y.png", len(name) + 10)
    (tmp_path / "s" / ".ipynb_checkpoints").mkdir()
    found = read_labelled(tmp_path / "s", PLAIN, 4)
    assert found.classes == ("10", "9", "Cat", "dog")
    (tmp_path / "s" / ".ipynb_checkpoints").rmdir()
    reference = {Path(path): label for path, label in ImageFolder(tmp_path / "s").samples}
    assert dict(zip(found.paths, found.labels or (), strict=True)) == reference
    line = refused(lambda: read_labelled(tmp_path / "s", PLAIN, 10))
    assert "has 4 folders (10, 9, Cat and 1 more), and the network 10 classes" in line


def test_numbered_classes_are_indices(picture: Write, tmp_path: Path) -> None:
    for number in (0, 9, 10, 3):
        picture(f"s/{number}/x.png", number)
    found = read_labelled(tmp_path / "s", PLAIN, 12)
    assert found.labels == (0, 3, 9, 10) and found.classes is None
    assert [path.parent.name for path in found.paths] == ["0", "3", "9", "10"]
    assert "folder 10, and the network 10 classes" in refused(lambda: read_labelled(tmp_path / "s", PLAIN, 10))


def test_padded_numbers(picture: Write, tmp_path: Path) -> None:
    picture("s/00/x.png")
    picture("s/07/x.png", 1)
    assert read_labelled(tmp_path / "s", PLAIN, 8).labels == (0, 7)


def test_labelled_folders_that_are_none(picture: Write, tmp_path: Path) -> None:
    picture("flat/a.png")
    assert "has no folder for each class" in refused(lambda: read_labelled(tmp_path / "flat", PLAIN, 2))
    (tmp_path / "e" / "0").mkdir(parents=True)
    assert "hold no images" in refused(lambda: read_labelled(tmp_path / "e", PLAIN, 2))
    assert "no such file" in refused(lambda: read_labelled(tmp_path / "fla", PLAIN, 2))


@pytest.mark.parametrize("header", ["image,label", "path,label", "label,file", "Label,Image,split"])
def test_labelled_csv(header: str, picture: Write, tmp_path: Path) -> None:
    rows = [(picture("i/a.png", 1), 4), (picture("i/b.png", 2), 0)]
    first = header.split(",")[0].lower() == "label"
    lines = [f"{label},i/{path.name},x" if first else f"i/{path.name},{label}" for path, label in rows]
    (tmp_path / "d.csv").write_text("\n".join([header, *lines]))
    found = read_labelled(tmp_path / "d.csv", PLAIN, 5)
    assert found.labels == (4, 0) and [path.name for path in found.paths] == ["a.png", "b.png"]
    line = refused(lambda: read_labelled(tmp_path / "d.csv", PLAIN, 4))
    assert "line 2: label 4 of a network of 4 classes; labels are 0 to 3" in line


def test_labelled_csv_without_labels(picture: Write, tmp_path: Path) -> None:
    picture("a.png")
    (tmp_path / "d.csv").write_text("image\na.png\n")
    line = refused(lambda: read_labelled(tmp_path / "d.csv", PLAIN, 4))
    assert "no image has a label: the header must be image,label" in line
    (tmp_path / "d.csv").write_text("image,label\na.png,\na.png,1\n")
    assert "line 2: the label is missing" in refused(lambda: read_labelled(tmp_path / "d.csv", PLAIN, 4))


def test_a_column_of_class_names_is_let_be(picture: Write, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        picture(name, len(name) + ord(name[0]))
    (tmp_path / "p.csv").write_text("clean,poisoned,class\na.png,b.png,cat\n")
    assert read_pairs([], [], tmp_path / "p.csv", PLAIN).labels is None


def test_digest_of_a_set(picture: Write, tmp_path: Path) -> None:
    for name in ("s/0/a.png", "s/1/b.png", "t/0/q.png", "t/1/r.png"):
        picture(name, int(name[2]))
    picture("u/1/a.png", 0)
    picture("u/0/b.png", 1)
    one, same, other = (read_labelled(tmp_path / n, PLAIN, 2).sha256 for n in "stu")
    assert one == same != other
    assert read_folder(tmp_path / "s", PLAIN).sha256 == read_folder(tmp_path / "t", PLAIN).sha256 != one


def test_a_set_is_a_value() -> None:
    empty = ImageSet((), None, None, PLAIN, "")
    assert len(empty) == 0 and list(empty.batches(4)) == []


def test_names_with_control_characters(tmp_path: Path) -> None:
    (tmp_path / "bad\n\x1b[31m.png").write_text("x")
    assert r"bad\n\x1b[31m.png" in refused(lambda: read_image(tmp_path / "bad\n\x1b[31m.png", PLAIN))
    with open(os.fsencode(tmp_path) + b"/\xff.png", "wb") as file:
        file.write(b"x")
    assert refused(lambda: read_folder(tmp_path, PLAIN).stack())


def test_a_named_file_that_is_no_image_is_told_before_any_is_asked_for(picture: Write, tmp_path: Path) -> None:
    good = picture("a.png")
    (tmp_path / "list.txt").write_text("a.png\n")
    assert len(read_images([good], PLAIN)) == 1
    with pytest.raises(ImageError, match=r"list.txt is no image .*: --scan takes images \(PNG, JPEG\) and folders of"):
        read_images([good, tmp_path / "list.txt"], PLAIN, "--scan")
