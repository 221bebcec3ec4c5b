"""Every error of rectify and the exit code that each one carries.

    RectifyError                    2   could not judge
    ├── UsageError                  2   flags or values that do not fit together
    ├── ConfigError                 2   rectify.yaml, [tool.rectify] or RECTIFY_* is wrong
    ├── CheckpointError             2   the checkpoint cannot be read
    │   ├── UnsafeCheckpoint        2   it wants to run code: a pickled module or other blocked globals
    │   ├── UnsupportedCheckpoint   2   TorchScript, ONNX, .pt2, a Git-LFS pointer
    │   └── CorruptCheckpoint       2   empty, truncated or random bytes
    ├── ArchitectureError           2   unknown architecture, or one that the tensors do not fit
    ├── PreprocessError             2   preprocessing unknown or malformed
    ├── ImageError                  2   an image, pair or folder cannot be used
    │   └── NotAnImage              2   a file of another kind, such as a list
    ├── OutputError                 2   a result cannot be written
    ├── TrainingError               2   a training cannot go on: its loss is no number
    └── Inconclusive                3   nothing to judge: no fault, no valid pair, accuracy at chance

A message is one line that says what is wrong and what to type next.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process returns."""

    OK = 0
    GATE_VIOLATED = 1
    COULD_NOT_JUDGE = 2
    INCONCLUSIVE = 3
    INTERRUPTED = 130


class RectifyError(Exception):
    """Base of all errors that rectify raises on purpose."""

    exit_code = ExitCode.COULD_NOT_JUDGE


class UsageError(RectifyError):
    """Flags or values that do not fit together."""


class ConfigError(RectifyError):
    """A configuration file or environment variable is wrong."""


class CheckpointError(RectifyError):
    """The checkpoint cannot be read."""


class UnsafeCheckpoint(CheckpointError):
    """Unpickling the file would import classes or run code."""


class UnsupportedCheckpoint(CheckpointError):
    """A known format that holds no plain state dict."""


class CorruptCheckpoint(CheckpointError):
    """Empty, truncated or not a checkpoint at all."""


class ArchitectureError(RectifyError):
    """The architecture is unknown or does not fit the tensors."""


class PreprocessError(RectifyError):
    """The preprocessing is unknown or malformed."""


class ImageError(RectifyError):
    """An image, a pair or a folder of images cannot be used."""


class NotAnImage(ImageError):
    """A file of another kind, such as a list."""


class OutputError(RectifyError):
    """A result cannot be written."""


class TrainingError(RectifyError):
    """A training cannot go on."""


class Inconclusive(RectifyError):
    """The question has no answer on this input."""

    exit_code = ExitCode.INCONCLUSIVE
