"""What the figures of a report mean, in a sentence each: the terms of its tables, and the order of the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rectify.reporting.verdict import Report, measured
from rectify.reporting.words import printable

if TYPE_CHECKING:
    from rectify.reporting.tables import Table

NAMED = 4  # names in a sentence
GAP = "Gap: probability of the true class, clean image less corrupted, over the pairs."
KEPT = "Kept: the share of the untouched accuracy that is expected to be left, without the fault and with it."
OUTLIER = (
    "Outlier score: by how many standard deviations the channel of the greatest gain stands out from the layer's "
    "others (gain: spectral norm of its kernel, times the factor of the batch norm behind it)."
)
FAITHFULNESS = (
    "Faithfulness: correlation, over random sets of pixels, of a map's share in them with what masking them takes "
    "from F; about 0 where a map knows nothing."
)
_LAYER_TERMS = {
    "editability_scale_free": "Scale-free editability: attribution times keys (the layer's inputs), whitened.",
    "lipschitz_outlier": OUTLIER,
    "attribution": "Attribution: norm of integrated gradients from the corrupted to the clean image.",
    "completeness_gap": (
        "Completeness gap: share of the output's change that attributions miss; known where all paths pass the layer."
    ),
    "out_of_span": "Out of span: share of the corrupted image's keys outside the span of those of {judges}.",
    "leverage": "Leverage: how far the corrupted image's keys stand out from those of {judges}.",
    "editability": "As published: editability that changes with the scale of the keys.",
}


def judges(report: Report) -> str:
    """What edits are judged on, and keys held against, without labels."""
    return "calibration images" if report.get("calibration") else "variations of the clean image"


def layer_term(report: Report, key: str) -> str:
    """What a figure of the layers means."""
    return _LAYER_TERMS[key].format(judges=judges(report))


def trial_terms(report: Report) -> tuple[str, str]:
    """On what the figures of trial edits are measured."""
    return (
        f"Attack success and recovery: of {judges(report)} that the fault was carried over to, and of the pairs. "
        f"Agreement: of {judges(report)} that keep their prediction.",
        "Recovery and agreement weigh each image by how sure the untouched network is.",
    )


def order(localize: Mapping[str, Any]) -> str:
    """What orders the layers, in two or three words."""
    from rectify.reporting.content import main_figure

    tried = any(layer.get("trial") for layer in localize["layers"])
    return "trial edit" if tried else main_figure(localize)[1]


def order_note(localize: Mapping[str, Any]) -> str:
    """What the order is made of, where that is no column of the table."""
    if order(localize) != "trial edit":
        return ""
    return (
        "Order: what a trial edit of each layer loses of accuracy and recovery, what pull to the target it leaves, and "
        "how far it moves the outputs, least first; then by scale-free editability."
    )


def not_offered(localize: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """The layers that no edit is offered for, a sentence a reason."""
    found: dict[str, list[str]] = {}
    for layer in layers:
        if not layer["candidate"]:
            found.setdefault(_why_not(localize, layer), []).append(printable(layer["name"]))
    sentences = []
    for why, names in found.items():
        more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
        sentences.append(f"Not offered for an edit: {', '.join(names[:NAMED])}{more} ({why}).")
    return sentences


def _why_not(localize: Mapping[str, Any], layer: Mapping[str, Any]) -> str:
    """Why a layer is no candidate, from what could be measured of it."""
    if localize["method"] == "data-free-triage":
        return "beside a longer branch, or of too many inputs"
    if measured(layer.get("attribution")) is None:
        return "the image does not reach it"
    if measured(layer.get("editability_scale_free")) is None:  # its second moment was not formed
        return "too many inputs"
    return "shortcuts beside a longer branch"


def said_once(tables: Sequence[Table]) -> list[Table]:
    """The tables with each sentence on a term where it is first of use."""
    found, said = [], {""}
    for table in tables:
        columns = [replace(column, about="") if column.about in said else column for column in table.columns]
        legend = tuple(line for line in table.legend if line not in said)
        said |= {*legend, *(column.about for column in columns)}
        found.append(replace(table, columns=tuple(columns), legend=legend))
    return found
