"""Every flag of the commands, said once: spelling, meaning, default, and its place in rectify.yaml."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rectify.cli import values
from rectify.cli.values import Reader
from rectify.names import BASELINES, METHODS, METRICS, OBJECTIVES, QUADRATURES, SCORES

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
        return self.read in (values.path, values.preprocess, values.start)

    @property
    def label(self) -> str:
        """How messages name it."""
        return self.spellings[-1] if self.name in ("out", "train_out") else self.spellings[0]


def _flag(name: str, panel: str, help: str, read: Reader = values.text, metavar: str = "TEXT", **more: Any) -> Flag:
    spellings = more.pop("spellings", ("--" + name.replace("_", "-"),))
    return Flag(name, spellings, panel, help, read, metavar, **more)


def _switch(name: str, panel: str, help: str, **more: Any) -> Flag:
    return _flag(name, panel, help, values.switch, "", default=False, key=None, **more)


FAULTS = ("auto", "flip", "cue", "leak")
FORMATS = ("text", "json", "markdown", "junit", "github")
COLORS = ("auto", "always", "never")
MODES = ("dynamic", "static")

ROWS = ("mnist", "fashion-mnist", "gtsrb", "flower")

MODEL_ARGUMENT = Flag("model", (), "Model", "Checkpoint, or folder; rectify.yaml may name it instead.", values.path, "")

MODEL = (
    _flag("arch", "Model", "torchvision name, timm:NAME, or module:callable.", metavar="NAME"),
    _flag(
        "arch_args",
        "Model",
        "Argument of the architecture; repeatable.",
        values.arguments,
        "K=V",
        many=True,
        spellings=("--arch-arg",),
    ),
    _flag("num_classes", "Model", "Number of classes, if the file does not tell.", values.whole(1), "N"),
    _flag("state_dict_key", "Model", "Where in the file the state dict lies.", metavar="KEY"),
    _flag("strip_prefix", "Model", "Prefix to strip from tensor names.", metavar="PREFIX"),
    _switch("trust_pickle", "Model", "Let the file run code while it is loaded. Recorded in the report.", env=False),
)
PAIRS = (
    _flag(
        "clean", "Pairs", "Clean image; repeatable, matched with --poisoned by order.", values.path, "PATH", many=True
    ),
    _flag(
        "poisoned",
        "Pairs",
        "The same image with the fault; repeatable.",
        values.path,
        "PATH",
        many=True,
        spellings=("--poisoned", "--corrupted"),
    ),
    _flag("pairs", "Pairs", "Folder with clean/ and poisoned/, or CSV clean,poisoned[,label].", values.path, "DIR|CSV"),
    _flag(
        "fault",
        "Pairs",
        "What the fault is: a changed class, a cue, leaking attribution.",
        values.one_of(*FAULTS),
        "|".join(FAULTS),
        default="auto",
    ),
)
HOLDOUT = (_flag("holdout", "Pairs", "Pairs that only judge.", values.path, "DIR|CSV"),)
CALIBRATION = (
    _flag("calibration", "Data", "Unlabelled clean images, for the second moment of the keys.", values.path, "DIR"),
)
DATA = (_flag("data", "Data", "Labelled images (a folder a class); judges clean accuracy.", values.path, "DIR|CSV"),)
PREPROCESS = (
    _flag(
        "preprocess",
        "Preprocessing",
        "YAML or JSON file, or imagenet, cifar10, mnist, fashion-mnist.",
        values.preprocess,
        "FILE|NAME",
    ),
    _flag("input_size", "Preprocessing", "Pixels, or channels,height,width.", values.size, "N|C,H,W", key=None),
    _flag(
        "crop_pct",
        "Preprocessing",
        "Share of the resized image that the centre crop keeps.",
        values.number,
        "X",
        key=None,
    ),
    _flag("interpolation", "Preprocessing", "nearest, bilinear, bicubic, …", metavar="NAME", key=None),
    _flag(
        "mean",
        "Preprocessing",
        "Mean a channel in 0..1 units, such as 0.49,0.48,0.45.",
        values.numbers,
        "X,X,X",
        key=None,
    ),
    _flag("std", "Preprocessing", "Standard deviation a channel.", values.numbers, "X,X,X", key=None),
)
COMPUTE = (
    _flag("device", "Compute", "Where to compute.", values.device, "auto|cpu|cuda[:i]", default="auto"),
    _flag("seed", "Compute", "Seed of everything random.", values.whole(0), "N", default=0),
    _flag("batch_size", "Compute", "Images at a time.", values.whole(1), "N", default=64),
    _flag(
        "cache_dir",
        "Compute",
        "Where second moments (localize, edit; 2 GiB at most) and packaged data sets (train) are kept between runs "
        "[default: ~/.cache/rectify].",
        values.path,
        "DIR",
    ),
    _switch("no_cache", "Compute", "Keep nothing between runs."),
)
OUTPUT = (
    _flag("format", "Output", "The report on stdout.", values.one_of(*FORMATS), "|".join(FORMATS), default="text"),
    _flag(
        "report", "Output", "Report file by suffix .json .md .html .xml; repeatable.", values.path, "PATH", many=True
    ),
    _switch("quiet", "Output", "No progress and no notes on stderr.", spellings=("-q", "--quiet")),
    _switch("verbose", "Output", "More notes on stderr.", spellings=("-v", "--verbose")),
    _flag(
        "color",
        "Output",
        "Colour in the text report.",
        values.one_of(*COLORS),
        "|".join(COLORS),
        default="auto",
        key=None,
    ),
    _switch("no_progress", "Output", "No progress bars."),
)
SETTINGS = (
    _flag(
        "config",
        "Settings",
        "Settings file; else the nearest rectify.yaml, else [tool.rectify] in pyproject.toml. RECTIFY_SEED=1 in the "
        "environment overrides seed there, and so on.",
        values.path,
        "FILE",
        key=None,
    ),
    _switch("show_config", "Settings", "Print every setting and where it comes from, and stop.", env=False),
    _switch("traceback", "Settings", "Show where an error was raised."),
)


def _gate(name: str, help: str, read: Reader = values.fraction) -> Flag:
    return _flag(name, "Gates", help, read, "X", key=f"gates.{name}")


MIN_EDITABILITY = _gate("min_editability", "The best layer's editability, at least.", values.floor)
GATES = (
    _gate("max_asr", "Attack success rate, at most."),
    _gate("min_recovery", "Share of triggered images given their true class again, at least."),
    _gate("min_accuracy", "Clean accuracy, at least."),
    _gate("max_accuracy_drop", "Clean accuracy lost by the edit, at most."),
    _gate("max_spurious_gap", "How far the cue moves the output, at most.", values.floor),
    _gate("max_leakage", "Attribution on the null region, at most.", values.floor),
)
BASELINE = (
    _flag("baseline", "Gates", "An earlier JSON report to compare with.", values.path, "FILE"),
    _gate("max_regression", "How much worse than --baseline a figure may be [default: 0 with --baseline]."),
)
EXIT_ZERO = _switch("exit_zero", "Gates", "Exit 0 where a violated gate would exit 1.")
EDIT = (
    _flag(
        "out",
        "Edit",
        "The repaired model [default: MODEL's stem + .rectified.safetensors].",
        values.path,
        "FILE",
        spellings=("-o", "--out"),
        key="edit.out",
    ),
    _flag("layer", "Edit", "The layer to edit.", metavar="auto|NAME", default="auto", key="edit.layer"),
    _flag(
        "mode",
        "Edit",
        "Layer by layer until the gap closes, or one edit.",
        values.one_of(*MODES),
        "|".join(MODES),
        default="dynamic",
        key="edit.mode",
    ),
    _flag("rank", "Edit", "Rank of the edit.", values.auto_or_rank, "auto|N", default="auto", key="edit.rank"),
    _flag(
        "refine",
        "Edit",
        "Move all layers together where closed forms one by one fall short; off saves minutes.",
        values.one_of("auto", "off"),
        "auto|off",
        default="auto",
        key="edit.refine",
    ),
    _flag("delta", "Edit", "Write the edit alone, as low-rank factors.", values.path, "FILE", key="edit.delta"),
    _flag(
        "apply",
        "Edit",
        "Apply a delta file instead of searching for an edit.",
        values.path,
        "FILE",
        key=None,
        env=False,
    ),
    _switch("dry_run", "Edit", "Judge the edit and write no model.", env=False),
    _switch("force", "Edit", "Overwrite an existing output; never the input.", env=False),
    _flag(
        "out_dtype",
        "Edit",
        "Write the edited tensors in this type.",
        values.one_of("float32"),
        "float32",
        key="edit.out_dtype",
    ),
)
METHOD = (
    _flag(
        "method",
        "Explain",
        f"How to attribute; repeatable: {', '.join(METHODS)} [default: ig].",
        values.one_of(*METHODS),
        "NAME",
        many=True,
        key="explain.method",
    ),
    _flag(
        "score",
        "Explain",
        "The output of the network that is explained.",
        values.one_of(*SCORES),
        "|".join(SCORES),
        default="probability",
        key="explain.score",
    ),
    _flag(
        "steps", "Explain", "Path points or samples [default: the method's].", values.whole(1), "N", key="explain.steps"
    ),
    _flag(
        "rule",
        "Explain",
        f"Quadrature on the path: {', '.join(QUADRATURES)} [default: the method's].",
        values.one_of(*QUADRATURES),
        "NAME",
        key="explain.rule",
    ),
    _flag(
        "tolerance",
        "Explain",
        "Double the steps until the completeness gap is this share of the change (ig, uni).",
        values.number,
        "X",
        key="explain.tolerance",
    ),
    _flag(
        "method_options",
        "Explain",
        "Option of a method, such as eps=0.5 for uni or noise=0.1 for smoothgrad; repeatable.",
        values.arguments,
        "K=V",
        many=True,
        spellings=("--set",),
        key="explain.set",
    ),
)
EXPLAIN = (
    _flag(
        "image",
        "Explain",
        "Image, or folder of images, to explain; repeatable. A pair works as well.",
        values.path,
        "PATH",
        many=True,
        key=None,
    ),
    _flag(
        "target",
        "Explain",
        "The class to explain: auto (the prediction; of a pair the clean image's class for both), predicted (each "
        "image's own prediction), or a number.",
        metavar="auto|predicted|CLASS",
        default="auto",
        key="explain.target",
    ),
    _flag(
        "start",
        "Explain",
        f"Where a path begins: {', '.join(BASELINES)}, or an image.",
        values.start,
        "NAME|PATH",
        default="black",
        spellings=("--baseline",),
        key="explain.baseline",
    ),
    _flag(
        "explain_layer",
        "Explain",
        "Attribute to this layer's output (ig, uni, gradient, gradient-x-input); where grad-cam looks.",
        metavar="NAME",
        spellings=("--layer",),
        key="explain.layer",
    ),
    _flag(
        "compare",
        "Explain",
        "A second model, such as the repaired one: the same maps side by side.",
        values.path,
        "MODEL",
        key=None,
    ),
    _flag(
        "faithfulness",
        "Explain",
        "Measure MuFidelity of every map; auto: where an HTML or Markdown report is written.",
        values.one_of("auto", "on", "off"),
        "auto|on|off",
        default="auto",
        key="explain.faithfulness",
    ),
    _flag(
        "explain_out",
        "Explain",
        "Folder for the pictures and arrays.",
        values.path,
        "DIR",
        default=Path("explanations"),
        spellings=("--out",),
        key="explain.out",
    ),
)
REFERENCE = (
    _flag("calibration", "Data", "Clean images that expected-gradients draws its baselines from.", values.path, "DIR"),
)
METRIC = (
    _flag(
        "metrics",
        "Evaluate",
        f"Quality of explanations; repeatable: {', '.join(METRICS)}.",
        values.one_of(*METRICS),
        "NAME",
        many=True,
        key="evaluate.metrics",
    ),
    _flag(
        "samples",
        "Evaluate",
        "Images that the metrics look at, drawn from --data, else from the pairs' clean images.",
        values.whole(1),
        "N",
        default=50,
        key="evaluate.samples",
    ),
    _flag(
        "null_region",
        "Evaluate",
        "Mask for leakage: white where nothing of the class is.",
        values.path,
        "MASK",
        key="evaluate.null_region",
    ),
)
AGAINST = (_flag("against", "Evaluate", "The model before the edit, to compare with.", values.path, "MODEL", key=None),)
TRIAL = (
    _flag(
        "trial",
        "Localize",
        "Try an edit of every candidate layer, however long it takes [default: as many as a minute affords].",
        values.switch,
        "",
        default=False,
        key=None,
    ),
)

TRAIN_DATA = (  # a name and place of its own: `data` of a rectify.yaml judges, and must not be trained on unawares
    _flag(
        "train_data",
        "Data",
        "Images to train on: a folder a class, a CSV file, flowers-102, or mnist, fashion-mnist, cifar10.",
        values.path,
        "DIR|CSV|NAME",
        spellings=("--data",),
        key="train.data",
    ),
    _flag("val", "Data", "Labelled images that judge.", values.path, "DIR|CSV", key="train.val"),
)
TRAIN = (
    _flag(
        "objective",
        "Train",
        f"What is minimised: {', '.join(OBJECTIVES)} [default: ig-sum-norm].",
        values.one_of(*OBJECTIVES),
        "NAME",
        key="train.objective",
    ),
    _flag(
        "preset",
        "Train",
        f"The paper's settings, where no flag says otherwise: {', '.join(ROWS)}, each also as NAME-quick, which a CPU "
        "can do.",
        values.one_of(*ROWS, *(f"{row}-quick" for row in ROWS)),
        "NAME",
        key="train.preset",
    ),
    _flag("eps", "Train", "Radius of the attack in pixels: 0.3, or 8/255.", values.pixels, "X", key="train.eps"),
    _flag("epochs", "Train", "Passes over the data.", values.whole(1), "N", key="train.epochs"),
    _flag(
        "epoch_size", "Train", "Images a pass, drawn anew each [default: all].", values.whole(1), "N",
        key="train.epoch_size",
    ),
    _flag(
        "lr", "Train", "Learning rate; 2e-3,600:5e-4 is 2e-3, and 5e-4 from step 600.", values.rates, "X",
        key="train.lr",
    ),
    _flag(
        "optimizer", "Train", "Adam, or SGD with momentum 0.9.", values.one_of("adam", "momentum"), "adam|momentum",
        key="train.optimizer",
    ),
    _flag("weight_decay", "Train", "Of weights, not biases.", values.floor, "X", key="train.weight_decay"),
    _flag(
        "attack_steps", "Train", "Steps of the attack in training.", values.whole(1), "N", key="train.attack_steps"
    ),
    _flag("path_steps", "Train", "Path points of the attribution.", values.whole(1), "N", key="train.path_steps"),
    _flag("weight", "Train", "Of the regulariser: lambda, or beta.", values.floor, "X", key="train.weight"),
    _flag(
        "ramp", "Train", "Share of the training in which eps grows from 0.", values.fraction, "X", key="train.ramp"
    ),
    _flag(
        "attack_samples", "Train", "Images that the result is attacked on.", values.whole(0), "N", default=50,
        key="train.attack_samples",
    ),
    _flag(
        "train_out",
        "Train",
        "The trained model [default: MODEL's stem + .trained.safetensors].",
        values.path,
        "FILE",
        spellings=("-o", "--out"),
        key="train.out",
    ),
    _flag(
        "save_every", "Train", "Seconds between two states that a stopped run can go on from; 0: after every step.",
        values.floor, "X", default=30.0, key="train.save_every",
    ),
    _switch("resume", "Train", "Go on with a run that was stopped, as if it had not been.", env=False),
    _switch("force", "Train", "Overwrite an existing output; never the input.", env=False),
)  # fmt: skip

LOCALIZE_FLAGS = (
    *MODEL,
    *PAIRS,
    *CALIBRATION,
    *PREPROCESS,
    *TRIAL,
    MIN_EDITABILITY,
    EXIT_ZERO,
    *OUTPUT,
    *COMPUTE,
    *SETTINGS,
)
EDIT_FLAGS = (
    *MODEL, *PAIRS, *HOLDOUT, *CALIBRATION, *DATA, *PREPROCESS, *EDIT, *GATES, MIN_EDITABILITY, *BASELINE, EXIT_ZERO,
    *OUTPUT, *COMPUTE, *SETTINGS,
)  # fmt: skip
EVALUATE_FLAGS = (
    *MODEL,
    *PAIRS,
    *HOLDOUT,
    *DATA,
    *PREPROCESS,
    *METRIC,
    *METHOD,
    *REFERENCE,
    *AGAINST,
    *GATES,
    *BASELINE,
    EXIT_ZERO,
    *OUTPUT,
    *COMPUTE,
    *SETTINGS,
)
EXPLAIN_FLAGS = (
    *MODEL,
    *(flag for flag in PAIRS if flag.name != "fault"),
    *REFERENCE,
    *PREPROCESS,
    *EXPLAIN[:1],
    *METHOD[:1],
    *EXPLAIN[1:],
    *METHOD[1:],
    *OUTPUT,
    *COMPUTE,
    *SETTINGS,
)

TRAIN_FLAGS = (
    *MODEL,
    *TRAIN_DATA,
    *PREPROCESS,
    *TRAIN,
    *(flag for flag in GATES if flag.name in ("min_accuracy", "max_accuracy_drop")),
    EXIT_ZERO,
    *OUTPUT,
    *COMPUTE,
    *SETTINGS,
)

GATE_NAMES = (*(flag.name for flag in (*GATES, MIN_EDITABILITY)), "max_regression")

COMMAND_FLAGS = {
    "localize": LOCALIZE_FLAGS,
    "edit": EDIT_FLAGS,
    "explain": EXPLAIN_FLAGS,
    "evaluate": EVALUATE_FLAGS,
    "train": TRAIN_FLAGS,
}


def unique(flags: Iterable[Flag]) -> dict[str, Flag]:
    """The flags by name."""
    return {flag.name: flag for flag in flags}


ALL_FLAGS = unique(flag for flags in ((MODEL_ARGUMENT,), *COMMAND_FLAGS.values()) for flag in flags)
