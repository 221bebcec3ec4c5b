"""What a flag is: spelling, meaning, default, and its place in rectify.yaml."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rectify.cli import values
from rectify.cli.values import Reader

PANELS = (
    "Model",
    "Pairs",
    "Data",
    "Preprocessing",
    "Edit",
    "Explain",
    "Evaluate",
    "Localize",
    "Train",
    "Gates",
    "Output",
    "Compute",
    "Settings",
)


@dataclass(frozen=True)
class Flag:
    """One setting of the command line."""

    name: str  # the setting; RECTIFY_<NAME> in the environment
    spellings: tuple[str, ...]
    panel: str
    help: str
    read: Reader = values.text
    metavar: str = "TEXT"
    default: Any = None
    key: str | None = ""  # its place in rectify.yaml: "" = the name itself; None = not settable in a file
    env: bool = True
    many: bool = False  # may be repeated

    @property
    def place(self) -> str | None:
        """The dotted key in rectify.yaml, or None."""
        return self.name if self.key == "" else self.key

    @property
    def is_switch(self) -> bool:
        """Takes no value."""
        return self.read is values.switch

    @property
    def is_path(self) -> bool:
        """Relative values are relative to the file that says them."""
        return self.read in (values.path, values.cache, values.preprocess, values.start)

    @property
    def is_mapping(self) -> bool:
        """Several K=V, each of which may be overridden alone."""
        return self.read is values.arguments

    @property
    def label(self) -> str:
        """How messages name it."""
        return self.spellings[-1] if self.name in ("out", "train_out") else self.spellings[0]


def flag(name: str, panel: str, help: str, read: Reader = values.text, metavar: str = "TEXT", **more: Any) -> Flag:
    """A flag that is spelled as it is named, unless ``spellings`` says otherwise."""
    spellings = more.pop("spellings", ("--" + name.replace("_", "-"),))
    return Flag(name, spellings, panel, help, read, metavar, **more)


def switch(name: str, panel: str, help: str, **more: Any) -> Flag:
    """A flag without a value, which no file can set."""
    return flag(name, panel, help, values.switch, "", default=False, key=None, **more)
