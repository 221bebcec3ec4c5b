"""The flags that several commands have: model, pairs, data, preprocessing, compute, output, settings, gates."""

from __future__ import annotations

from rectify.cli import values
from rectify.cli.flags import Flag, flag, switch
from rectify.cli.values import Reader

FAULTS = ("auto", "flip", "cue", "leak")
FORMATS = ("text", "json", "markdown", "junit", "github")
COLORS = ("auto", "always", "never")

MODEL_ARGUMENT = Flag("model", (), "Model", "Checkpoint, or folder; rectify.yaml may name it instead.", values.path, "")

MODEL = (
    flag("arch", "Model", "torchvision name, timm:NAME, or module:callable.", metavar="NAME"),
    flag(
        "arch_args",
        "Model",
        "Argument of the architecture; repeatable. Overrides this one of arch_args in rectify.yaml and keeps the "
        "others, unless --arch names another architecture.",
        values.arguments,
        "K=V",
        many=True,
        spellings=("--arch-arg",),
    ),
    flag("num_classes", "Model", "Number of classes, if the file does not tell.", values.whole(1), "N"),
    flag("state_dict_key", "Model", "Where in the file the state dict lies.", metavar="KEY"),
    flag("strip_prefix", "Model", "Prefix to strip from tensor names.", metavar="PREFIX"),
    switch("trust_pickle", "Model", "Let the file run code while it is loaded. Recorded in the report.", env=False),
)
PAIRS = (
    flag(
        "clean", "Pairs", "Clean image; repeatable, matched with --poisoned by order.", values.path, "PATH", many=True
    ),
    flag(
        "poisoned",
        "Pairs",
        "The same image with the fault; repeatable.",
        values.path,
        "PATH",
        many=True,
        spellings=("--poisoned", "--corrupted"),
    ),
    flag("pairs", "Pairs", "Folder with clean/ and poisoned/, or CSV clean,poisoned[,label].", values.path, "DIR|CSV"),
    flag(
        "fault",
        "Pairs",
        "What the fault is: a changed class, a cue, attribution on what clean lacks.",
        values.one_of(*FAULTS),
        "|".join(FAULTS),
        default="auto",
    ),
)
HOLDOUT = (flag("holdout", "Pairs", "Pairs that only judge.", values.path, "DIR|CSV"),)
CALIBRATION = (
    flag("calibration", "Data", "Unlabelled clean images, for the second moment of the keys.", values.path, "DIR"),
)
DATA = (flag("data", "Data", "Labelled images (a folder a class); judges clean accuracy.", values.path, "DIR|CSV"),)
PREPROCESS = (
    flag(
        "preprocess",
        "Preprocessing",
        "YAML or JSON file, or imagenet, cifar10, mnist, fashion-mnist.",
        values.preprocess,
        "FILE|NAME",
    ),
    flag("input_size", "Preprocessing", "Pixels, or channels,height,width.", values.size, "N|C,H,W", key=None),
    flag(
        "crop_pct",
        "Preprocessing",
        "Share of the resized image that the centre crop keeps.",
        values.number,
        "X",
        key=None,
    ),
    flag("interpolation", "Preprocessing", "nearest, bilinear, bicubic, …", metavar="NAME", key=None),
    flag(
        "mean",
        "Preprocessing",
        "Mean a channel in 0..1 units, such as 0.49,0.48,0.45.",
        values.numbers,
        "X,X,X",
        key=None,
    ),
    flag("std", "Preprocessing", "Standard deviation a channel.", values.numbers, "X,X,X", key=None),
)
COMPUTE = (
    flag("device", "Compute", "Where to compute.", values.device, "auto|cpu|cuda[:i]", default="auto"),
    flag("seed", "Compute", "Seed of everything random.", values.seed, "N", default=0),
    flag("batch_size", "Compute", "Images at a time, at most.", values.whole(1), "N", default=64),
    flag(
        "cache_dir",
        "Compute",
        "Where second moments (localize, edit; 2 GiB at most) and packaged data sets (train) are kept between runs "
        "[default: ~/.cache/rectify].",
        values.cache,
        "DIR",
    ),
    switch("no_cache", "Compute", "Keep nothing between runs."),
)
OUTPUT = (
    flag("format", "Output", "The report on stdout.", values.one_of(*FORMATS), "|".join(FORMATS), default="text"),
    flag("report", "Output", "Report file by suffix .json .md .html .xml; repeatable.", values.path, "PATH", many=True),
    switch("quiet", "Output", "No progress and no notes on stderr.", spellings=("-q", "--quiet")),
    switch("verbose", "Output", "More notes on stderr.", spellings=("-v", "--verbose")),
    flag(
        "color",
        "Output",
        "Colour in the text report.",
        values.one_of(*COLORS),
        "|".join(COLORS),
        default="auto",
        key=None,
    ),
    switch("no_progress", "Output", "No progress bars."),
)
SETTINGS = (
    flag(
        "config",
        "Settings",
        "Settings file; else the nearest rectify.yaml, else [tool.rectify] in pyproject.toml. What a section named "
        "after a command says, such as edit: {report: r.html}, is for that command alone. RECTIFY_SEED=1 in the "
        "environment overrides seed there, and so on.",
        values.path,
        "FILE",
        key=None,
    ),
    switch("show_config", "Settings", "Print every setting and where it comes from, and stop.", env=False),
    switch("traceback", "Settings", "Show where an error was raised."),
)


def _gate(name: str, help: str, read: Reader = values.fraction) -> Flag:
    return flag(name, "Gates", help, read, "X", key=f"gates.{name}")


MIN_EDITABILITY = _gate(
    "min_editability", "The best layer's editability as published (not the scale-free one), at least.", values.floor
)
GATES = (
    _gate("max_asr", "Attack success rate, at most."),
    _gate("min_recovery", "Share of triggered images given their true class again, at least."),
    _gate("min_accuracy", "Clean accuracy, at least."),
    _gate("max_accuracy_drop", "Clean accuracy lost by the edit, at most."),
    _gate("max_spurious_gap", "How far the cue moves the output, at most.", values.floor),
    _gate("max_leakage", "Attribution on the null region, at most.", values.floor),
)
BASELINE = (
    flag("baseline", "Gates", "An earlier JSON report to compare with.", values.path, "FILE"),
    _gate("max_regression", "How much worse than --baseline a figure may be [default: 0 with --baseline]."),
)
EXIT_ZERO = switch("exit_zero", "Gates", "Exit 0 where a violated gate would exit 1.")
