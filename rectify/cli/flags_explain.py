"""The flags of explain, and of evaluate where it judges explanations."""

from __future__ import annotations

from pathlib import Path

from rectify.cli import values
from rectify.cli.flags import flag
from rectify.names import BASELINES, METHODS, METRICS, QUADRATURES, SCORES

METHOD = (
    flag(
        "method",
        "Explain",
        f"How to attribute; repeatable: {', '.join(METHODS)} [default: ig].",
        values.one_of(*METHODS),
        "NAME",
        many=True,
        key="explain.method",
    ),
    flag(
        "score",
        "Explain",
        "The output of the network that is explained.",
        values.one_of(*SCORES),
        "|".join(SCORES),
        default="probability",
        key="explain.score",
    ),
    flag(
        "steps", "Explain", "Path points or samples [default: the method's].", values.whole(1), "N", key="explain.steps"
    ),
    flag(
        "rule",
        "Explain",
        f"Quadrature on the path: {', '.join(QUADRATURES)} [default: the method's].",
        values.one_of(*QUADRATURES),
        "NAME",
        key="explain.rule",
    ),
    flag(
        "tolerance",
        "Explain",
        "Double the steps until the completeness gap is this share of the change (ig, uni).",
        values.number,
        "X",
        key="explain.tolerance",
    ),
    flag(
        "method_options",
        "Explain",
        "Option of a method, such as eps=0.5 for uni or noise=0.1 for smoothgrad; repeatable. Overrides this one of "
        "set in rectify.yaml and keeps the others.",
        values.arguments,
        "K=V",
        many=True,
        spellings=("--set",),
        key="explain.set",
    ),
)
EXPLAIN = (
    flag(
        "image",
        "Explain",
        "Image, or folder of images, to explain; repeatable. A pair works as well; that of rectify.yaml is left out "
        "where images are typed.",
        values.path,
        "PATH",
        many=True,
        key=None,
    ),
    flag(
        "target",
        "Explain",
        "The class to explain: auto (the prediction; of a pair the clean image's class for both), predicted (each "
        "image's own prediction), or a number.",
        metavar="auto|predicted|CLASS",
        default="auto",
        key="explain.target",
    ),
    flag(
        "start",
        "Explain",
        f"Where a path begins: {', '.join(BASELINES)}, or an image.",
        values.start,
        "NAME|PATH",
        default="black",
        spellings=("--baseline",),
        key="explain.baseline",
    ),
    flag(
        "explain_layer",
        "Explain",
        "Attribute to this layer's output (ig, uni, gradient, gradient-x-input); where grad-cam looks.",
        metavar="NAME",
        spellings=("--layer",),
        key="explain.layer",
    ),
    flag(
        "compare",
        "Explain",
        "A second model, such as the repaired one: the same maps side by side.",
        values.path,
        "MODEL",
        key=None,
    ),
    flag(
        "faithfulness",
        "Explain",
        "Measure MuFidelity of every map; auto: where an HTML or Markdown report is written.",
        values.one_of("auto", "on", "off"),
        "auto|on|off",
        default="auto",
        key="explain.faithfulness",
    ),
    flag(
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
    flag("calibration", "Data", "Clean images that expected-gradients draws its baselines from.", values.path, "DIR"),
)
METRIC = (
    flag(
        "metrics",
        "Evaluate",
        f"Quality of explanations; repeatable: {', '.join(METRICS)}.",
        values.one_of(*METRICS),
        "NAME",
        many=True,
        key="evaluate.metrics",
    ),
    flag(
        "samples",
        "Evaluate",
        "Images that the metrics look at, drawn from --data, else from the pairs' clean images.",
        values.whole(1),
        "N",
        default=50,
        key="evaluate.samples",
    ),
    flag(
        "null_region",
        "Evaluate",
        "Mask for leakage: white where nothing of the class is.",
        values.path,
        "MASK",
        key="evaluate.null_region",
    ),
)
AGAINST = (flag("against", "Evaluate", "The model before the edit, to compare with.", values.path, "MODEL", key=None),)
