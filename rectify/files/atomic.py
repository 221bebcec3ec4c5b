"""Files written whole or not at all, and the sha256 of files. No torch here: reports use it too."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shlex
import sys
import tempfile
import time
from collections.abc import Collection, Iterable
from pathlib import Path

from rectify.errors import CheckpointError, OutputError
from rectify.files.words import no_such_file, plain, reason

_BLOCK = 1 << 20
_LONGEST = 255  # bytes of a file's name
ABANDONED = 3600.0  # seconds after which nobody writes a file any more that has not changed since


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes.

    Parameters
    ----------
    path : Path
        A file.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    CheckpointError
        If the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except FileNotFoundError:
        raise CheckpointError(no_such_file(path)) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {plain(path)}: {reason(error)}") from None
    return digest.hexdigest()


def check_target(
    path: Path,
    *,
    force: bool,
    never: Collection[Path] = (),
    flag: str = "-o",
    instead: str | None = None,
    coming: Path | None = None,
) -> None:
    """Say early, before the work, that a result could not be written.

    Parameters
    ----------
    path : Path
        The file that is to be written.
    force : bool
        Whether an existing file may be replaced.
    never : collection of Path
        Files that are not to be replaced even so: the inputs, also by way of a link.
    flag : str
        What gives the file its name on the command line.
    instead : str, optional
        What to do where the name is taken, if it is not ``flag`` alone that gives it.
    coming : Path, optional
        A folder that is made, with those above it, before the file is written.

    Raises
    ------
    OutputError
        If the file may not be written, with what to type instead.
    """
    rename_it = instead or f"give {flag} another name"
    if str(path) == "-":
        raise OutputError(f"{flag} -: it is written as a file, not on stdout: give a file name")
    for other in never:
        if _same(path, other) or (os.path.isdir(other) and os.path.exists(path) and _same(path.parent, other)):
            raise OutputError(f"{plain(path)} is the input {plain(other)}, never overwritten: {rename_it}")
    if _is_running(path):
        raise OutputError(f"{plain(path)} is code that this command runs, never overwritten: {rename_it}")
    if len(os.fsencode(path.name)) > _LONGEST:
        told = f"its name has {len(os.fsencode(path.name))} bytes, of {_LONGEST} that a file's name may have"
        raise OutputError(f"cannot write {plain(path)}: {told}; give a shorter one")
    if os.path.isdir(path):
        raise OutputError(f"{plain(path)} is a folder: {instead or _name_inside(path, flag)}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise OutputError(f"{plain(path)} is a device or a pipe: give the name of an ordinary file")
    if os.path.lexists(path) and not force:
        raise OutputError(f"{plain(path)} exists already: add --force to replace it, or {rename_it}")
    folder = path.parent
    if not os.path.isdir(folder):
        file = next((each for each in (folder, *folder.parents) if os.path.isfile(each)), None)
        if file is not None:
            raise OutputError(f"cannot write {plain(path)}: {plain(file)} is a file, not a folder; name another folder")
        if coming is not None and Path(os.path.realpath(coming)).is_relative_to(os.path.realpath(folder)):
            return
        make = f"mkdir -p {shlex.quote(plain(folder))}"
        raise OutputError(f"cannot write {plain(path)}: no folder {plain(folder)}; type: {make}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            f"cannot write {plain(path)}: no right to write in {plain(folder.absolute())}; name another folder"
        )


def _name_inside(folder: Path, flag: str) -> str:
    """What to type where a result's name is that of a folder."""
    names = {"--report": f"report{folder.suffix}", "--delta": "delta.safetensors"}
    return f"give {flag} a file name, such as {plain(folder / names.get(flag, 'out.safetensors'))}"


def check_folder(folder: Path) -> None:
    """Say early that a folder cannot be made, without making it: a run that is refused leaves nothing behind.

    Raises
    ------
    OutputError
        If the folder, or one above it, is a file; or stdout is meant.
    """
    if str(folder) == "-":
        raise OutputError("--out -: explanations are files in a folder, not on stdout: give one, such as --out maps")
    first = next((each for each in (folder, *folder.absolute().parents) if os.path.lexists(each)), folder)
    if os.path.lexists(first) and not os.path.isdir(first):
        raise OutputError(f"--out {plain(folder)}: {plain(first)} is a file, not a folder; name another")
    check_room(folder, first)


def check_room(path: Path, folder: Path | None = None) -> None:
    """Say early that no file can be made in a folder that is there, by making one that nobody sees, for a moment.

    Rights do not tell: of root, of /proc, of what is mounted to be read only.

    Parameters
    ----------
    path : Path
        What is to be written.
    folder : Path, optional
        Where there has to be room: by default the folder that ``path`` lies in; one that is not there is passed over.

    Raises
    ------
    OutputError
        If none can be made, with what to type instead.
    """
    folder = path.parent if folder is None else folder
    if not os.path.isdir(folder):
        return
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot write {plain(path)}: no file can be made in {plain(folder.absolute())} ({reason(error)}); name "
            "another folder"
        ) from None


def _is_running(path: Path) -> bool:
    """Whether it is the source of a module that was imported: that of --arch, and whatever that imports."""
    if path.suffix != ".py" and not os.path.islink(path):
        return False
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return os.path.realpath(path) in {os.path.realpath(file) for file in files if isinstance(file, str)}


def _same(path: Path, other: Path) -> bool:
    try:
        return path.resolve() == other.resolve() or path.samefile(other)
    except (OSError, RuntimeError, ValueError):  # not there, or a loop of links
        return False


def files_at(targets: Iterable[Path], files: Iterable[Path]) -> list[Path]:
    """Those of the files that one of the targets would replace, by any name: for ``never`` of `check_target`.

    One look at each file, where `check_target` compares every two names: files may be tens of thousands of images.
    """
    there = {found for path in targets if (found := _identity(path)) is not None}
    return [path for path in files if _identity(path) in there] if there else []


def _identity(path: Path) -> tuple[int, int] | None:
    """What is one and the same for all names of a file; None where there is none."""
    try:
        told = os.stat(path)
    except (OSError, ValueError):
        return None
    return told.st_dev, told.st_ino


def write_atomic(path: Path, data: bytes | str, *, force: bool = True) -> None:
    """Write a file whole: into a temporary file beside it, to the disk, then renamed.

    Killed at any time it leaves the old file (or none) and at most a ``.NAME.*.partial`` beside it, which
    nothing ever reads.

    Parameters
    ----------
    path : Path
        The target.
    data : bytes or str
        What to write; text is written as UTF-8, with escapes for what a file's name holds that is no text.
    force : bool
        Whether an existing file may be replaced.

    Raises
    ------
    OutputError
        If the file cannot be written, with what to type instead.
    """
    content = data.encode(errors="backslashreplace") if isinstance(data, str) else data
    write_parts(path, (content,), force=force)


def write_parts(path: Path, parts: Iterable[bytes | memoryview], *, force: bool = True) -> None:
    """As `write_atomic`, of what is too large to be joined in memory first: its parts, in order.

    Raises
    ------
    OutputError
        If the file cannot be written, with what to type instead.
    """
    check_target(path, force=force)
    partial = path.parent / f".{shortened(path.name)}.{secrets.token_hex(4)}.partial"
    try:
        _write_and_sync(partial, *parts)
        _renamed(partial, path)
    except OSError as error:
        raise _unwritten(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def rename(whole: Path, path: Path) -> None:
    """Give a file that lies whole in the same folder its name, for good.

    Raises
    ------
    OutputError
        If it cannot be given, with what to type instead.
    """
    try:
        _renamed(whole, path)
    except OSError as error:
        raise _unwritten(path, error) from None


def _renamed(whole: Path, path: Path) -> None:
    os.replace(whole, path)
    _sync_folder(path.parent)


def _unwritten(path: Path, error: OSError) -> OutputError:
    folder = plain(path.parent.resolve())
    return OutputError(
        f"cannot write {plain(path)}: {reason(error)}; make room or rights in {folder}, or name another file"
    )


def clear_partials(folder: Path, pattern: str, age: float = 0.0) -> None:
    """Remove what killed processes left of half-written files.

    Parameters
    ----------
    folder, pattern
        Where, and of which files: the name as ``glob`` has it, with wildcards if need be.
    age
        Seconds since the last write below which one stays: `ABANDONED` where somebody may be writing now.
    """
    for partial in folder.glob(f".{pattern}.????????.partial"):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime >= age:
                partial.unlink()


def shortened(name: str, limit: int = 220) -> str:
    """Room for the random part within the 255 bytes that file systems allow; what is no text may be left out then."""
    raw = os.fsencode(name)
    return name if len(raw) <= limit else raw[:limit].decode(errors="ignore")


def _write_and_sync(partial: Path, *parts: bytes | memoryview) -> None:
    # os.open with 0o666 gives the rights that the user's umask asks for; tempfile would give 0o600.
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with os.fdopen(descriptor, "wb") as file:
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(view), _BLOCK):
                file.write(view[start : start + _BLOCK])
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the rename itself last; file systems that cannot do this are left alone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
