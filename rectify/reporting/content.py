"""What a report says to people in sentences and facts; the terminal, markdown and the page all draw from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from rectify.reporting.verdict import Gate, Report, decide, measured
from rectify.reporting.words import count, number, percent, plural, printable, share_of_change, short, size

_SETS = (
    ("holdout_pairs", "holdout", "pair"),
    ("calibration", "calibration", "image"),
    ("data", "data", "image"),
    ("scan", "scanned", "image"),
)
FEW_PAIRS = 20  # below that a share of them says little
MODELS = {"model": "before", "compare": "after"}  # the model explained and the one that it is compared with
_OTHERS = {"against": "before", "compare": "after"}  # the model that evaluate, and that explain, is given beside it
CAST_WORTH_SAYING = 0.001  # what is lost in a cast to float32 is of no interest


def reason(report: Report) -> str:
    """The verdict in one sentence: the report's own, else drawn from its gates."""
    if report.get("reason"):
        return str(report["reason"])
    if report["verdict"] == "inconclusive":
        notes = (report.get("run") or {}).get("notes") or []
        return str(notes[0]) if notes else "there is nothing to judge"
    return decide(gates(report)).reason


def gates(report: Report) -> list[Gate]:
    """The report's gates as objects."""
    return [Gate(gate["name"], gate["limit"], gate["value"], gate["passed"]) for gate in report.get("gates") or []]


def ranked(layers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Layers by rank, best first; those without a rank keep their order at the end."""
    return sorted(layers, key=lambda layer: (layer.get("rank") is None, layer.get("rank") or 0))


def main_figure(localize: Mapping[str, Any]) -> tuple[str, str]:
    """Key and words of the figure that orders the layers."""
    if localize["method"] == "data-free-triage":
        return "lipschitz_outlier", "outlier score"
    return "editability_scale_free", "scale-free editability"


def headline(report: Report) -> str:
    """What was found, in one or two sentences; empty where nothing was."""
    if report["verdict"] == "inconclusive":
        return ""
    if report["command"] == "localize":
        from rectify.reporting.scan import scan_headline

        return " ".join(filter(None, (_first_layer(report.get("localize")), scan_headline(report.get("scan")))))
    if report["command"] == "explain":
        return _explained(report)
    if report["command"] == "train":
        from rectify.reporting.training import train_headline

        return train_headline(report)
    figures = _changes(report)
    kept = {step["layer"] for step in (report.get("edit") or {}).get("steps") or [] if step["kept"]}
    edited = f"{plural(len(kept), 'layer')} edited" if report["command"] == "edit" else ""
    return ": ".join(part for part in (edited, figures) if part) + _expected(report)


def _expected(report: Report) -> str:
    """What an edit is expected to do to other images, where no holdout has shown it."""
    expected = (report.get("edit") or {}).get("expected")
    shown = ((report.get("metrics") or {}).get("holdout") or {}).get("after") or {}
    if not expected or measured(shown.get("recovery")) is not None:
        return ""
    kept = f"{percent(expected['accuracy_kept'])} of the accuracy, {percent(expected['recovery_kept'])} of the recovery"
    asr = "" if expected["asr"] is None else f", attack success {percent(expected['asr'])}"
    return f". Expected of other images: {kept}{asr}."


def _first_layer(localize: Mapping[str, Any] | None) -> str:
    best = next((layer for layer in ranked((localize or {}).get("layers") or []) if layer["rank"] is not None), None)
    if not localize or best is None:
        return ""
    key, words = main_figure(localize)
    label = "First to edit" if key.startswith("editability") else "Most unusual"
    line = f"{label}: {best['name']} ({words} {number(measured(best.get(key)))})."
    trial = best.get("trial") or {}  # by recovery alone another one may come first
    told = [(words, measured(trial.get(words))) for words in ("recovery", "agreement")]
    found = [f"{words} {percent(value)}" for words, value in told if value is not None]
    return f"{line} Its trial edit: {', '.join(found)}." if found else line


def _changes(report: Report) -> str:
    metrics = report.get("metrics") or {}
    holdout = metrics.get("holdout") or {}
    found = []
    words_of = {"leakage": "leakage", "asr": "attack success", "recovery": "recovery", "accuracy": "accuracy"}
    if report["command"] != "edit":  # elsewhere it is one of many measures of explanations, with a line of its own
        del words_of["leakage"]
    for key, words in words_of.items():
        on_holdout = key in ("asr", "recovery") and measured((holdout.get("after") or {}).get(key)) is not None
        part = holdout if on_holdout else metrics
        values = [measured((part.get(when) or {}).get(key)) for when in ("before", "after")]
        if known := [percent(value) for value in values if value is not None]:
            found.append(f"{words} {' → '.join(known)}{' on the holdout' if on_holdout else _on_few(report, key)}")
    return ", ".join(found)


def _on_few(report: Report, key: str) -> str:
    """On how many pairs attack success and recovery were counted, where that is few: once, behind the latter."""
    count = (report.get("pairs") or {}).get("count")
    if key != "recovery" or not count or count >= FEW_PAIRS:
        return ""
    return " on the pair" if count == 1 else f" on {count} pairs"


def _explained(report: Report) -> str:
    """Of pairs how alike their maps are, else the worst completeness gap."""
    entries = report.get("explanations") or []
    if pairs := report.get("explanation_pairs"):
        found = [_alike(pairs, method) for method in dict.fromkeys(pair["method"] for pair in pairs)]
        return "; ".join(printable(line) for line in found if line)
    if not entries:
        return ""
    images = {entry["image"] for entry in entries}
    line = f"{plural(len(images), 'image')} explained by {_methods(entries)}"
    worst = worst_gap(entries)
    if worst is None:
        return line
    where = f" ({image_names(images)[worst['image']]})" if len(images) > 1 else ""
    gap = "worst completeness gap" if len(entries) > 1 else "completeness gap"
    return printable(f"{line}: {gap} {share_of_change(worst['relative_gap'])}{where}")


def _alike(pairs: Sequence[Mapping[str, Any]], method: str) -> str:
    both = len({pair["model"] for pair in pairs}) > 1
    found = []
    for model, words in MODELS.items():
        ours = [pair for pair in pairs if pair["method"] == method and pair["model"] == model]
        values = [value for pair in ours if (value := measured(pair["pearson"])) is not None]
        if values:
            found.append(f"{sum(values) / len(values):.2f}{f' ({words})' if both else ''}")
    amount = len({(pair["clean"], pair["corrupted"]) for pair in pairs if pair["method"] == method})
    mean = "mean " if amount > 1 else ""
    maps = f"maps of {amount} pairs" if amount > 1 else "map"
    words = f"{method}: {mean}Pearson correlation of the clean and the corrupted {maps}"
    return f"{words} {', '.join(found)}" if found else ""


def _methods(entries: Sequence[Mapping[str, Any]]) -> str:
    *others, last = dict.fromkeys(str(entry["method"]) for entry in entries)
    return f"{', '.join(others)} and {last}" if others else last


def worst_gap(entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The explanation of the largest relative completeness gap; None where no method promises completeness."""
    known = [entry for entry in entries if measured(entry["relative_gap"]) is not None]
    return max(known, key=lambda entry: float(entry["relative_gap"]), default=None)


def image_names(paths: Iterable[str]) -> dict[str, str]:
    """Short names for paths: without the folder that they have in common."""
    parts = {path: PurePath(path).parts for path in paths}
    shortest = min((len(part) for part in parts.values()), default=0)
    shared = 0
    while shared < shortest - 1 and len({part[shared] for part in parts.values()}) == 1:
        shared += 1
    return {path: str(PurePath(*part[shared:])) for path, part in parts.items()}


def facts(report: Report) -> list[tuple[str, str]]:
    """What went in and what came out, as (name, sentence)."""
    lines: list[tuple[str, str]] = []
    if model := report.get("model"):
        lines += _model_facts(model)
    for key, name in _OTHERS.items():
        if other := report.get(key):
            lines.append((name, _file_fact(other)))
    if pairs := report.get("pairs"):
        target = "" if pairs["target"] is None else f", target class {pairs['target']}"
        target = ", each class to another" if pairs.get("each") else target
        fault = f", fault {pairs['fault']}" if pairs["fault"] else ""
        lines.append(("pairs", f"{plural(pairs['count'], 'pair')}{fault}{target} · sha256 {short(pairs['sha256'])}"))
    for key, name, noun in _SETS:
        if part := report.get(key):
            lines.append((name, f"{plural(part['count'], noun)} · sha256 {short(part['sha256'])}"))
    if report.get("train"):
        from rectify.reporting.training import train_facts

        lines += train_facts(report["train"])
    return lines + _explain_facts(report.get("explanations")) + _edit_facts(report.get("edit"))


def _model_facts(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    extra = " ".join(f"{key}={value}" for key, value in sorted((model.get("arch_args") or {}).items()))
    arch = f"{model['arch']} {extra}".rstrip()
    shape = "×".join(str(n) for n in model["preprocess"]["input_size"])
    lines = [
        ("model", _file_fact(model)),
        ("network", f"{arch} · {count(model['parameters'])} parameters"),
        ("classes", f"{model['num_classes']} · input {shape}"),
    ]
    if model.get("trusted_pickle"):
        lines.append(("warning", "this checkpoint was unpickled with --trust-pickle: it could run code"))
    return [(name, printable(text)) for name, text in lines]


def _file_fact(model: Mapping[str, Any]) -> str:
    return printable(f"{model['path']} · sha256 {short(model['sha256'])}")


def _explain_facts(entries: Sequence[Mapping[str, Any]] | None) -> list[tuple[str, str]]:
    if not entries:
        return []
    images = plural(len({entry["image"] for entry in entries}), "image")
    outputs = dict.fromkeys(str(entry["settings"]["output"]) for entry in entries if "output" in entry["settings"])
    what = f" · F is the class's {' or '.join(outputs)}" if outputs else ""
    lines = [("explained", f"{images} by {_methods(entries)}{what}")]
    files = {path for entry in entries for path in entry["files"]}
    if files:
        folders = {str(PurePath(path).parent) for path in files}
        where = f" in {folders.pop()}" if len(folders) == 1 else ""
        lines.append(("written", f"{plural(len(files), 'file')}{where}"))
    return [(name, printable(text)) for name, text in lines]


def _edit_facts(edit: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if not edit:
        return []
    lines = []
    for key, name in (("out", "written"), ("delta", "delta file")):
        if part := edit.get(key):
            lines.append((name, printable(f"{part['path']} · {size(part['bytes'])} · sha256 {short(part['sha256'])}")))
    if edit["out"] is None:
        lines.append(("written", "nothing (dry run)" if edit["dry_run"] else "nothing: no patched file is left behind"))
    loss = measured(edit.get("precision_loss"))
    if loss is not None and loss >= CAST_WORTH_SAYING:
        lines.append(("cast", f"{percent(loss)} of the edit was lost in the cast to the file's dtype"))
    return lines
