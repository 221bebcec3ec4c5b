"""``rectify localize``: rank every editable layer."""

from __future__ import annotations

import time
from typing import Any

from rectify.editing import rectify as repair
from rectify.errors import Inconclusive
from rectify.jobs.common import Inputs, Options, Progress, begin, finish
from rectify.jobs.measuring import measure
from rectify.jobs.scene import open_scene, open_scene_case, score_layers, with_trials
from rectify.sections import localize_section, pairs_section, triage_section


def run_localize(inputs: Inputs, options: Options, *, trial: bool = False, progress: Progress) -> dict[str, Any]:
    """Rank every editable layer; without a pair, the data-free triage.

    The score makes the shortlist and a trial edit of each layer on it the order: all layers with ``trial``, else as
    many as a minute or so affords.

    Raises
    ------
    RectifyError
        If it cannot be judged; an inconclusive outcome is a report.
    """
    report, started = begin("localize", inputs, options), time.time()
    notes: list[str] = []
    if inputs.pairs is None:
        report["localize"] = triage_section(inputs.subject)
        notes.append(
            "no pair: this is only a data-free triage (channel Lipschitz outliers); it cannot tell a fault from a "
            "quirk. A pair (--clean a.png --poisoned b.png) gives attribution, editability and trial edits"
        )
        return finish(report, options, started, inputs, notes)
    try:
        scene = open_scene(inputs, options)
        report["pairs"] = pairs_section(inputs.pairs, scene.fault)
        report["metrics"]["before"] = measure(scene.network, inputs, options, scene.fault.target).to_dict()
        found = score_layers(scene, options, progress)
        case = open_scene_case(scene, options)
        number = len(found.scores) if trial else repair.affordable_trials(case, scene.sites)
        if number:
            notes += case.notes
            found = with_trials(scene, case, found, options, progress, number)
        else:
            notes.append("too large to try an edit of each layer in a minute: ranked by score alone; --trial tries all")
        notes += scene.fault.notes
        report["localize"] = localize_section(found, scene.fault.target)
    except Inconclusive as reason:
        return finish(report, options, started, inputs, notes, inconclusive=str(reason))
    return finish(report, options, started, inputs, notes)
