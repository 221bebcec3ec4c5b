"""Bad luck on purpose: full disks, folders without rights, and processes that are stopped at a chosen moment."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import pytest

from rectify.files import atomic
from tests.conftest import Said, run_python


def full_disk(monkeypatch: pytest.MonkeyPatch, name: str, first: int = 1) -> None:
    """Files of this name (with wildcards) stop half-way, from number ``first`` on: No space left on device."""
    write, seen = atomic._write_and_sync, [0]

    def stops(partial: Path, *parts: bytes | memoryview) -> None:
        ours = fnmatch(partial.name, f".{name}.????????.partial")
        seen[0] += ours
        if ours and seen[0] >= first:
            whole = b"".join(parts)
            write(partial, whole[: len(whole) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(partial, *parts)

    monkeypatch.setattr(atomic, "_write_and_sync", stops)


def take_rights(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Nothing can be written into the folder any more, by root neither: rights alone do not stop root."""
    opened = os.open

    def refuses(path: str | Path, flags: int, *more: int, **named: int) -> int:
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and folder.absolute() in Path(path).absolute().parents:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, flags, *more, **named)

    folder.chmod(0o500)
    monkeypatch.setattr(os, "open", refuses)


IN_A_STEP = """
import os, signal, sys
from rectify.cli.app import main
from rectify.training import loop

name, number, *words = sys.argv[1:]
step = loop._step


def stopped(run, objective, optimiser, at):
    def asked(*args):
        loss = objective(*args)
        if at.step == int(number):
            os.kill(os.getpid(), getattr(signal, name))
        return loss

    step(run, asked, optimiser, at)


loop._step = stopped
sys.exit(main(words))
"""
IN_A_SAVE = """
import os, signal, sys
from rectify.cli.app import main
from rectify.files import atomic

name, times, save, *words = sys.argv[1:]
write, seen = atomic._write_and_sync, 0


def half(partial, content):
    global seen
    seen += ".resume." in partial.name
    if seen == int(save) and ".resume." in partial.name:
        write(partial, content[: len(content) // 2])
        for _ in range(int(times)):
            os.kill(os.getpid(), getattr(signal, name))
        partial.unlink()
    write(partial, content)


atomic._write_and_sync = half
if name == "SIGTERM":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what it runs in the background
sys.exit(main(words))
"""
WHILE_JUDGED = """
import os, signal, sys
from rectify.cli.app import main
from rectify.jobs import edit

name, *words = sys.argv[1:]
edit._judge_written = lambda *_: os.kill(os.getpid(), getattr(signal, name))
sys.exit(main(words))
"""


def stopped_in_a_step(name: str, step: int, words: Sequence[str], place: Path) -> Said:
    """`rectify train` as a process that gets the signal of this name half-way through a step, counted from 0."""
    return _threaded([IN_A_STEP, name, str(step), *words], place)


def stopped_in_a_save(name: str, times: int, save: int, words: Sequence[str], place: Path) -> Said:
    """`rectify train` as a process that gets a signal, so many times, when state number ``save`` is half written."""
    return _threaded([IN_A_SAVE, name, str(times), str(save), *words], place)


def stopped_while_judged(name: str, words: Sequence[str], place: Path) -> Said:
    """`rectify edit` as a process that gets the signal of this name when its candidate is written, to be judged."""
    return run_python(["-c", WHILE_JUDGED, name, *words], place, OMP_NUM_THREADS="1")


def _threaded(code_and_words: Sequence[str], place: Path) -> Said:
    """With as many threads as this process has: sums of another order are other sums."""
    import torch

    return run_python(["-c", *code_and_words], place, OMP_NUM_THREADS=str(torch.get_num_threads()))
