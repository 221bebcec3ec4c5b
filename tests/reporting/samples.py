"""Realistic reports of every kind, and pairs to draw."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from rectify.reporting.build import conclude, empty_report
from rectify.reporting.jsonfile import to_json
from rectify.reporting.repair import PairRow
from rectify.reporting.schema import load
from rectify.reporting.verdict import decide, judge

SHA = "3f2a9c81d04be7a65512c9ee0f6b8d7a90c41e2ba7d35f60818e4c2b9d7f1a60"
ODD = ["layer4[1]", "[bold]x", "a|b`c`", "$x$_<b>&", "::error::%0A", ":smile:", "naïve→層"]

VALIDATOR = jsonschema.Draft202012Validator(load())


class AsciiOutput(io.StringIO):
    """An output that can hold only ASCII."""

    encoding = "ascii"


def errors(report: dict[str, Any]) -> list[str]:
    """What the schema has against a report."""
    return [error.message for error in VALIDATOR.iter_errors(json.loads(to_json(report)))]


def resnet_layers() -> list[tuple[str, str, list[int]]]:
    """Name, kind and weight shape of every editable layer of a ResNet-18 of width 16, in network order."""
    found: list[tuple[str, str, list[int]]] = [("conv1", "conv", [16, 3, 3, 3])]
    inputs = 16
    for stage in range(4):
        outputs = 16 * 2**stage
        for block in range(2):
            name = f"layer{stage + 1}.{block}"
            found.append((f"{name}.conv1", "conv", [outputs, inputs, 3, 3]))
            found.append((f"{name}.conv2", "conv", [outputs, outputs, 3, 3]))
            if inputs != outputs:
                found.append((f"{name}.shortcut.0", "conv", [outputs, inputs, 1, 1]))
            inputs = outputs
    return [*found, ("fc", "linear", [10, 128])]


def many_layers(amount: int = 60) -> list[tuple[str, str, list[int]]]:
    """Layers as an EfficientNet has them: long names, depthwise convolutions."""
    kinds = [
        ("conv_pw", "conv", [96, 16, 1, 1]),
        ("conv_dw", "depthwise", [96, 1, 5, 5]),
        ("conv_pwl", "conv", [24, 96, 1, 1]),
    ]
    names = [(f"blocks.{i // 6}.{(i // 3) % 2}.{kinds[i % 3][0]}", *kinds[i % 3][1:]) for i in range(amount - 2)]
    return [("conv_stem", "conv", [32, 3, 3, 3]), *names, ("classifier", "linear", [1000, 1280])]


def layer(place: int, name: str, kind: str, shape: list[int], *, trial: bool = False) -> dict[str, Any]:
    """One layer with figures that rise and fall over the network."""
    score = 12.31 * math.exp(-((place - 4) ** 2) / 18) + 0.004 * ((place * 7) % 11)
    shortcut = "shortcut" in name
    made: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "shape": shape,
        "parameters": math.prod(shape),
        "editability": None if shortcut else score,
        "attribution": 0.0213 * score + 0.001,
        "completeness_gap": 0.0041 if place in (0, 1) or kind == "linear" else None,
        "out_of_span": 0.31 + 0.012 * (place % 9),
        "rank": None,
        "editability_scale_free": score * 0.37,
        "leverage": 214.2 / (1 + place),
        "candidate": not shortcut,
        "trial": None,
        "lipschitz_outlier": None,
    }
    if trial and not shortcut and place < 12:
        good = math.exp(-((place - 5) ** 2) / 12)
        made["trial"] = {
            "gap_after": 0.98 * (1 - good) + 0.004,
            "recovery": good,
            "agreement": 0.999 - 0.02 * good,
            "asr": 1 - good,
        }
    return made


def rank_layers(layers: list[dict[str, Any]], key: str = "editability_scale_free") -> list[dict[str, Any]]:
    """Give ranks by ``key``; layers without it have none."""
    order = sorted((item for item in layers if item[key] is not None), key=lambda item: -item[key])
    for rank, item in enumerate(order, 1):
        item["rank"] = rank
    return layers


def localization(layers: list[tuple[str, str, list[int]]], *, trial: bool = False) -> dict[str, Any]:
    """The ``localize`` part."""
    found = rank_layers([layer(place, *one, trial=trial) for place, one in enumerate(layers)])
    return {"method": "integrated-gradients", "target": 3, "completeness_gap": 0.0037, "layers": found}


def blank(command: str) -> dict[str, Any]:
    """A report with model and pairs and a run section that does not change."""
    report = empty_report(command)
    report["model"] = {
        "path": "models/mnist-resnet-patch.pt",
        "sha256": SHA,
        "arch": "fixtures.networks:resnet18",
        "arch_args": {"width": 16, "channels": 1},
        "num_classes": 10,
        "parameters": 701466,
        "preprocess": {
            "input_size": [1, 28, 28],
            "mean": [0.1307],
            "std": [0.3081],
            "crop_pct": 1.0,
            "interpolation": "bilinear",
        },
        "trusted_pickle": False,
    }
    report["pairs"] = {"count": 1, "sha256": SHA[::-1], "target": 3, "labels": [7], "fault": "flip"}
    report["run"] = {
        "time": "2026-03-02T09:14:07+00:00",
        "host": "bench",
        "duration_s": 4.218,
        "versions": {"python": "3.11.9", "rectify": "0.1.0", "torch": "2.14.0"},
        "device": "cpu",
        "seed": 0,
        "notes": ["architecture taken from --arch", "prefix 'module.' stripped from the checkpoint's keys"],
    }
    return report


def localize_report(*, trial: bool = True, layers: list[tuple[str, str, list[int]]] | None = None) -> dict[str, Any]:
    """``rectify localize`` with a pair."""
    report = blank("localize")
    report["calibration"] = {"count": 150, "sha256": SHA}
    report["localize"] = localization(layers or resnet_layers(), trial=trial)
    report["metrics"]["before"] = figures(None, 1.0, 0.0, 0.9981, None)
    return conclude(report, decide(judge({"min_editability": 1.0}, report)))


def figures(
    accuracy: float | None, asr: float | None, recovery: float | None, gap: float | None, base: float | None
) -> dict[str, float | None]:
    """One set of figures."""
    return {"accuracy": accuracy, "asr": asr, "recovery": recovery, "gap": gap, "base_rate": base}


def edit_report(limits: dict[str, float] | None = None) -> dict[str, Any]:
    """``rectify edit`` with pairs, data and a holdout; passes unless ``limits`` say otherwise."""
    report = localize_report()
    report["command"] = "edit"
    report["data"] = {"count": 10000, "sha256": SHA}
    report["holdout_pairs"] = {"count": 60, "sha256": SHA}
    step = {
        "delta_norm": 0.2413,
        "relative_norm": 0.0312,
        "gap_before": 0.9981,
        "gap_after": 0.2714,
        "kept": True,
        "reason": None,
    }
    report["edit"] = {
        "mode": "dynamic",
        "policy": "smallest edit that meets the gates",
        "steps": [
            {"layer": "layer1.1.conv2", "rank": 1, **step},
            {"layer": "layer2.0.conv1", "rank": 1, **step, "gap_before": 0.2714, "gap_after": 0.0019},
            {"layer": "fc", "rank": 1, **step, "gap_before": 0.0019, "gap_after": 0.0018, "kept": False,
             "reason": "fc alone: 97.9% of the accuracy and 95.1% of the recovery expected, attack success 0.4%",
             "expected": {"accuracy_kept": 0.979, "recovery_kept": 0.951, "asr": 0.004}},
        ],
        "changed_tensors": ["layer1.1.conv2.weight", "layer2.0.conv1.weight"],
        "out": {"path": "models/mnist-resnet-patch.rectified.safetensors", "sha256": SHA, "bytes": 2812344},
        "delta": {"path": "patch.delta.safetensors", "sha256": SHA, "bytes": 4312},
        "precision_loss": 2.9e-8,
        "dry_run": False,
        "expected": {"accuracy_kept": 0.996, "recovery_kept": 0.988, "asr": 0.004},
        "warnings": [],
    }  # fmt: skip
    report["metrics"] = {
        "before": figures(0.9937, 1.0, 0.0, 0.9981, 0.0012),
        "after": figures(0.9921, 0.001, 0.9894, 0.0019, 0.0013),
        "holdout": {
            "before": figures(None, 1.0, 0.0, 0.9973, 0.0),
            "after": figures(None, 0.0167, 0.9667, 0.0121, 0.0),
        },
    }
    wanted = {"max_asr": 0.05, "min_recovery": 0.9, "max_accuracy_drop": 0.005} if limits is None else limits
    return conclude(report, decide(judge(wanted, report)))


def failed_report() -> dict[str, Any]:
    """An edit that was rejected: nothing is left behind."""
    report = edit_report()
    report["edit"] |= {"out": None, "delta": None, "precision_loss": 0.071}
    report["edit"]["warnings"] = ["7.1% of the edit was lost in the cast to bfloat16: try --out-dtype float32"]
    report["metrics"]["holdout"]["after"] = figures(None, 0.3833, 0.55, 0.4417, 0.0)
    limits = {"max_asr": 0.05, "min_recovery": 0.9, "min_accuracy": 0.95, "max_leakage": 2.5}
    return conclude(report, decide(judge(limits, report)))


def evaluate_report() -> dict[str, Any]:
    """``rectify evaluate`` of one model."""
    report = blank("evaluate")
    report["data"] = {"count": 10000, "sha256": SHA}
    report["metrics"]["after"] = figures(0.9921, 0.0013, 0.9894, 0.0019, 0.0013)
    return conclude(report, decide(judge({"max_asr": 0.05, "min_accuracy": 0.99}, report)))


def inconclusive_report() -> dict[str, Any]:
    """Clean accuracy at chance."""
    report = blank("edit")
    report["metrics"]["before"] = figures(0.1032, None, None, None, None)
    why = (
        "clean accuracy is 10.3%, at chance for 10 classes: the preprocessing is almost certainly wrong (--preprocess)"
    )
    return conclude(report, decide([], inconclusive=why))


def triage_report() -> dict[str, Any]:
    """``rectify localize`` without a pair."""
    report = blank("localize")
    report["pairs"] = None
    part = localization(resnet_layers())
    for place, item in enumerate(part["layers"]):
        item |= dict.fromkeys(("editability", "attribution", "completeness_gap", "out_of_span", "rank", "leverage"))
        item |= {"editability_scale_free": None, "lipschitz_outlier": 1.1 + 4.8 / (1 + abs(place - 17))}
    part |= {
        "method": "data-free-triage",
        "target": None,
        "completeness_gap": None,
        "layers": rank_layers(part["layers"], "lipschitz_outlier"),
    }
    report["localize"] = part
    report["run"]["notes"].append("no pair: this is only a data-free triage. A pair gives attribution and trial edits")
    return conclude(report, decide([]))


def odd_report() -> dict[str, Any]:
    """Layers whose names are markup in one language or another."""
    layers = [(name, "conv", [16, 16, 3, 3]) for name in ODD]
    report = edit_report()
    report["localize"] = localization(layers, trial=True)
    expected = {"accuracy_kept": 0.9, "recovery_kept": 0.8, "asr": None}
    step = report["edit"]["steps"][0]
    report["edit"]["steps"] = [
        {**step, "layer": name, "kept": kept, "reason": f"because of {name}", "expected": None if kept else expected}
        for name in ODD
        for kept in (False, True)
    ]
    report["edit"]["changed_tensors"] = [f"{name}.weight" for name in ODD]
    return report


def explanation(image: str, place: int, **what: Any) -> dict[str, Any]:
    """One entry of ``explanations``."""
    made: dict[str, Any] = {
        "image": image,
        "role": "image",
        "model": "model",
        "method": "ig",
        "target": place % 10,
        "prediction": 3,
        "confidence": 0.9987 - 0.013 * place,
        "completeness_gap": 0.0121 * (1 + place * 7 % 5),
        "relative_gap": 0.0124 * (1 + place * 7 % 5),
        "monotonicity": 0.97 - 0.01 * place,
        "faithfulness": None,
        "settings": {"rule": "gauss-legendre", "steps": 32, "baseline": "black", "output": "probability"},
        "files": [f"maps/{image.rpartition('/')[2]}.ig.png", f"maps/{image.rpartition('/')[2]}.ig.safetensors"],
    }
    return made | what


def explain_report(amount: int = 12) -> dict[str, Any]:
    """``rectify explain`` of a folder of images."""
    report = blank("explain")
    report["pairs"] = None
    report["explanations"] = [
        explanation(f"photos/garden/{place:04}.png", place, faithfulness=0.31 - 0.03 * place) for place in range(amount)
    ]
    return conclude(report, decide([]))


def explain_pair_report() -> dict[str, Any]:
    """``rectify explain`` of a pair by two methods before and after an edit."""
    report = blank("explain")
    report["compare"] = {"path": "models/mnist-resnet-patch.rectified.safetensors", "sha256": SHA[::-1]}
    report["explanations"] = [
        explanation(f"pairs/{folder}/0.png", place, role=role, model=model, method=method)
        for place, (folder, role, model, method) in enumerate(
            (folder, role, model, method)
            for folder, role in (("clean", "clean"), ("poisoned", "corrupted"))
            for model in ("model", "compare")
            for method in ("ig", "gradient")
        )
    ]
    for entry in report["explanations"]:
        if entry["method"] == "gradient":
            entry |= {"completeness_gap": None, "relative_gap": None, "monotonicity": None}
    report["explanation_pairs"] = [
        {"method": method, "model": model, "clean": "pairs/clean/0.png", "corrupted": "pairs/poisoned/0.png",
         "pearson": pearson, "spearman": pearson - 0.1}
        for method, model, pearson in (
            ("ig", "model", 0.3071), ("ig", "compare", 0.9218), ("gradient", "model", -0.04),
            ("gradient", "compare", 0.8),
        )
    ]  # fmt: skip
    return conclude(report, decide([]))


def quality(method: str, metric: str, value: float | None, floor: float | None = None) -> dict[str, Any]:
    """One entry of ``explanation_metrics``."""
    return {
        "method": method, "metric": metric, "value": value, "spread": 0.0312, "null_floor": floor, "settings": {"n": 9},
    }  # fmt: skip


def quality_report(methods: tuple[str, ...] = ("ig", "uni")) -> dict[str, Any]:
    """``rectify evaluate`` with metrics of explanations."""
    report = evaluate_report()
    report["explanation_metrics"] = [
        quality(method, metric, value + change * place, floor)
        for place, method in enumerate(methods)
        for metric, value, change, floor in (
            ("mufidelity", 0.121, 0.03, 0.02), ("deletion", 0.31, -0.05, 0.29), ("insertion", 0.64, -0.1, 0.35),
            ("robustness-top-k", 0.37, 0.0, None), ("steps-1-vs-32-l2", 0.4, -0.1, None),
        )
    ]  # fmt: skip
    return report


def scanned(place: int, suspicion: float | None, **what: Any) -> dict[str, Any]:
    """One image of a scan."""
    made: dict[str, Any] = {
        "image": f"train/{place % 3}/{place:05}.png", "suspicion": suspicion, "suspicious": (suspicion or 0) > 0.42,
        "prediction": 3 if (suspicion or 0) > 0.42 else place % 10, "confidence": 0.9991 - 0.001 * place,
        "peak": [26, 25],
    }  # fmt: skip
    return made | what


def scan_report(amount: int = 40, *, threshold: float | None = 0.42) -> dict[str, Any]:
    """``rectify localize --scan`` of a folder of which 15 images have the fault."""
    report = localize_report(layers=resnet_layers()[:6])
    images = [scanned(place, 1.2 - 0.03 * place if place < 15 else 0.2 - 0.01 * place) for place in range(amount)]
    if threshold is None:
        images = [row | {"suspicious": None, "peak": None} for row in images]
    known = threshold is not None
    report["scan"] = {
        "layer": "layer1.1.conv2", "pooling": "max", "target": 3, "threshold": threshold,
        "false_alarms": 1 / 81 if known else None, "misses": 0.0125 if known else None,
        "separation": 0.9993 if known else None, "judged_on": {"clean": 80, "fired": 76 if known else 0},
        "count": amount, "sha256": SHA, "suspicious": 15 if known else None, "images": images,
    }  # fmt: skip
    return report


REPORTS: dict[str, Callable[[], dict[str, Any]]] = {
    "localize": localize_report,
    "edit": edit_report,
    "failed": failed_report,
    "evaluate": evaluate_report,
    "inconclusive": inconclusive_report,
    "triage": triage_report,
    "odd": odd_report,
    "explain": explain_report,
    "explain-pair": explain_pair_report,
    "explain-quality": quality_report,
    "explain-quality-one": lambda: quality_report(("ig",)),
    "scan": scan_report,
    "scan-without-calibration": lambda: scan_report(threshold=None),
    "many": lambda: localize_report(layers=many_layers()),
}


def digit(size: int = 28) -> NDArray[np.float64]:
    """A grey picture of a ring on black."""
    y, x = np.mgrid[0:size, 0:size] / (size - 1) - 0.5
    image: NDArray[np.float64] = np.exp(-(((np.hypot(x, y) - 0.28) / 0.07) ** 2))
    return image[:, :, None]


def photo(size: int = 32) -> NDArray[np.float64]:
    """A coloured picture."""
    y, x = np.mgrid[0:size, 0:size] / (size - 1)
    return np.stack([0.2 + 0.6 * x, 0.5 + 0.4 * np.sin(6 * y), 0.8 - 0.5 * x * y], axis=2)


def pair_rows(amount: int = 3, *, colour: bool = False) -> list[PairRow]:
    """Pairs with a patch in the corner."""
    rows: list[PairRow] = []
    for place in range(amount):
        clean = photo() if colour else digit()
        corrupted = clean.copy()
        corrupted[-4:-1, -4:-1] = [1.0, 1.0, 0.0] if colour else 1.0
        rows.append(
            {
                "clean": clean,
                "corrupted": corrupted,
                "title": f"poisoned/000{place}.png",
                "label": "0",
                "target": "3",
                "before": [
                    {"name": "3", "confidence": 0.9993},
                    {"name": "0", "confidence": 0.0004},
                    {"name": "8", "confidence": 0.0002},
                ],
                "after": [
                    {"name": "0", "confidence": 0.9871},
                    {"name": "6", "confidence": 0.0082},
                    {"name": "3", "confidence": 0.0021},
                ],
                "clean_before": [{"name": "0", "confidence": 0.9998}],
                "clean_after": [{"name": "0", "confidence": 0.9991}],
            }
        )
    return rows
