"""What ``rectify train`` is to do, out of flags, files, preset and defaults; and all of it for --show-config."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectify.cli.config import Rank, Setting, Settings, show
from rectify.cli.values import schedule_of
from rectify.errors import PreprocessError, RectifyError, UsageError

if TYPE_CHECKING:
    from rectify.files.preprocess import Preprocess
    from rectify.training.presets import Plan, Preset

PLANNED = {  # settings that a plan takes over as they are, and what it calls them
    **{name: name for name in ("eps", "epochs", "epoch_size", "attack_steps", "weight", "weight_decay", "ramp")},
    "path_steps": "path_points",
}


def out_path(settings: Settings) -> Path:
    """Where the trained model goes.

    Raises
    ------
    UsageError
        If nobody says, and there is no MODEL to name it after.
    """
    if settings["train_out"] is not None:
        return Path(settings["train_out"])
    if settings["model"] is None:
        raise UsageError("where to write the trained model? -o model.safetensors")
    model = Path(settings["model"])
    model = model.resolve() if model.is_dir() else model
    return model.with_name(f"{model.name if model.is_dir() else model.stem}.trained.safetensors")


def make_plan(settings: Settings, made: Preset | None) -> Plan:
    """The preset's plan (or the plain one) with what the flags say over it.

    A flag that says what holds anyway changes nothing: what --show-config prints can be saved and is the same plan.
    """
    from rectify.training.presets import Plan, weight_of

    objective = settings["objective"] or (made.plan.objective if made else "ig-sum-norm")
    base = made.plan if made else Plan(objective=objective, weight=weight_of(objective))
    said = {field: settings[name] for name, field in PLANNED.items() if settings[name] is not None}
    plan = replace(base, objective=objective, seed=settings["seed"], **said)
    if made is None or settings.source("batch_size") != "default":
        plan = replace(plan, batch_size=settings["batch_size"])
    if (plan.eps, plan.attack_steps) != (base.eps, base.attack_steps):  # the ball stays within reach of its search
        plan = replace(plan, attack_step=2.5 * plan.eps / plan.attack_steps)
    optimiser = settings["optimizer"] or base.optimiser
    schedule = base.schedule if settings["lr"] is None else schedule_of(settings["lr"])
    if settings["lr"] is None and optimiser != base.optimiser:
        schedule = ((0, base.learning_rate(0)),)
    if (optimiser, schedule) != (base.optimiser, base.schedule):
        plan = replace(plan, schedule=schedule, optimiser=optimiser, summed=False)
    return replace(plan, attack_points=min(plan.attack_points, plan.path_points))


def data_source(settings: Settings, made: Preset | None) -> Path:
    """What to train on: a path, or the name of a packaged set."""
    if settings["train_data"] is not None:
        return Path(settings["train_data"])
    if made is not None and made.data is not None:
        return Path(made.data)
    if made is not None:
        raise UsageError(
            f"train on what? --data DIR, your own copy of the images that --preset {settings['preset']} is for, as "
            "torchvision lays it out"
        )
    raise UsageError("train on what? --data DIR (a folder a class), or --data mnist, fashion-mnist or cifar10")


def class_count(settings: Settings, made: Preset | None, source: Path) -> int:
    """As the flag says, else the packaged set, else the folders."""
    from rectify.training.data import count_classes, packaged_name

    if settings["num_classes"] is not None:
        return int(settings["num_classes"])
    if packaged_name(source):
        return 10
    if source.is_file() and made is not None:
        return made.num_classes
    return count_classes(source)


def fresh_preprocess(settings: Settings, made: Preset | None, source: Path, arch: str) -> Preprocess:
    """What the flags say, else the preset, the packaged set or timm's tag; never a silent default."""
    import rectify
    from rectify.cli.inputs import FIELDS
    from rectify.files.preprocess import Preprocess

    said = {name: settings[name] for name in FIELDS if settings[name] is not None}
    if settings["preprocess"] is not None:
        base = rectify.preprocessing(settings["preprocess"]).to_dict()
    else:
        base, _ = _base(settings, made, source, arch)
    if not base and not said:
        raise PreprocessError(
            "how do images become input? --preprocess FILE or NAME, or --input-size, --mean and --std"
        )
    if isinstance(said.get("input_size"), int) and base and "mean" not in said:
        said["input_size"] = [len(base["mean"]), said["input_size"], said["input_size"]]
    return Preprocess.from_dict({**base, **said}, "--preprocess and its flags")


def _base(settings: Settings, made: Preset | None, source: Path, arch: str) -> tuple[dict[str, Any], str]:
    """Preprocessing where no setting names one, and where it comes from; empty where nothing does."""
    from rectify.files.builders import timm_preprocess
    from rectify.files.preprocess import PRESETS
    from rectify.training.data import packaged_name

    if made is not None:
        return made.preprocess, f"preset {settings['preset']}"
    if name := packaged_name(source):
        return PRESETS[name], f"data {name}"
    if arch.startswith("timm:") and (found := timm_preprocess(arch)):
        return found.to_dict(), arch
    return {}, ""


def shown(settings: Settings) -> str:
    """What --show-config prints: what was said, and what the preset or a default fills in where nobody did.

    What follows from other settings and has no flag of its own stands at the end, as comments. With a MODEL the
    architecture, its classes and its preprocessing are the file's, which is not opened for this.

    Raises
    ------
    UsageError
        If the plan makes no sense.
    """
    from rectify.training.presets import preset, schedule_text

    made = None if settings["preset"] is None else preset(settings["preset"], settings["objective"])
    origin = f"preset {settings['preset']}" if made else "default"
    plan = make_plan(settings, made)
    named = {**PLANNED, "objective": "objective", "batch_size": "batch_size", "optimizer": "optimiser"}
    values = {name: getattr(plan, field) for name, field in named.items()}
    values["lr"] = schedule_text(plan.schedule)
    filled = {name: (value, origin) for name, value in values.items()}
    if settings["model"] is not None:
        filled["train_out"] = out_path(settings), "default"
    if made and made.data:
        filled["train_data"] = Path(made.data), origin
    fill = {name: Setting(*what, Rank.DEFAULT) for name, what in filled.items()} | dict(settings.said)
    if settings["model"] is None:
        fill |= _network_settings(settings, made, origin)
    return show(replace(settings, said=fill), _derived(made, plan, origin))


def _network_settings(settings: Settings, made: Preset | None, origin: str) -> dict[str, Setting]:
    """Architecture, classes and preprocessing of fresh weights, as far as they can be told without the images."""
    filled: dict[str, tuple[Any, str]] = {}
    if made and settings["arch"] is None:
        said = settings["arch_args"] or {}
        who = f"{settings.source('arch_args')}, " if said else ""
        filled["arch"] = made.arch, origin
        if made.arch_args:
            filled["arch_args"] = {**made.arch_args, **said}, f"{who}{origin}"
    with suppress(RectifyError):  # no data yet: training says what is missing, this only shows what is known
        source = data_source(settings, made)
        if settings["num_classes"] is None:
            filled["num_classes"] = class_count(settings, made, source), f"data {source}"
    if settings["preprocess"] is None:
        source = settings["train_data"] or Path((made and made.data) or "")
        base, where = _base(settings, made, source, settings["arch"] or "")
        filled |= {"preprocess": (base, where)} if base else {}
    return {name: Setting(*what, Rank.DEFAULT) for name, what in filled.items()}


def _derived(made: Preset | None, plan: Plan, origin: str) -> dict[str, Setting]:
    """What the plan holds besides the settings, and where it comes from."""
    from rectify.training.presets import Plan as Plain

    base = made.plan if made else Plain()
    follows = {"attack_step": "eps and attack_steps", "attack_points": "path_steps", "summed": "lr or optimizer"}
    found: dict[str, tuple[Any, str]] = {}
    for name, why in follows.items():
        value = getattr(plan, name)
        found[name] = value, origin if value == getattr(base, name) else why
    if plan.optimiser == "momentum":
        found["momentum"] = plan.momentum, origin
    if made:
        found |= {"top": (made.top, origin), "attack_top": (made.attack_top, origin)}
    return {name: Setting(*what, Rank.DEFAULT) for name, what in found.items()}
