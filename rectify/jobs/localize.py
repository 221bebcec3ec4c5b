"""``rectify localize``: rank every editable layer."""

from __future__ import annotations

import time
from typing import Any

from rectify.editing import repair
from rectify.errors import Inconclusive, UsageError
from rectify.jobs.common import Inputs, Options, Progress, begin, finish
from rectify.jobs.measuring import measure
from rectify.jobs.scan import Scan, check_layer, run_scan
from rectify.jobs.scene import open_scene, open_scene_case, score_layers, with_trials
from rectify.sections import localize_section, pairs_section, triage_section


def run_localize(
    inputs: Inputs, options: Options, *, trial: bool = False, scan: Scan | None = None, progress: Progress
) -> dict[str, Any]:
    """Rank every editable layer; without a pair, the data-free triage.

    The score makes the shortlist and a trial edit of each layer on it the order: all layers with ``trial``, else as
    many as a minute or so affords. With ``scan`` its images are ranked too, by how strongly the fault fires in them.

    Raises
    ------
    RectifyError
        If it cannot be judged; an inconclusive outcome is a report.
    """
    if scan is not None and inputs.pairs is None:
        raise UsageError("--scan looks for the fault of a pair: give --clean a.png --poisoned b.png, or --pairs DIR")
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
        scene = open_scene(inputs, options, progress)
        if scan is not None:
            check_layer(scene, scan.layer)
        report["pairs"] = pairs_section(inputs.pairs, scene.fault)
        report["metrics"]["before"] = measure(scene.network, inputs, options, scene.fault).to_dict()
        case = open_scene_case(scene, options)
        report["pairs"] = pairs_section(inputs.pairs, case.fault)  # calibration images show if it has no one target
        found = score_layers(scene, options, progress)
        number = len(found.scores) if trial else repair.affordable_trials(case, scene.sites)
        notes += case.notes
        if number:
            found = with_trials(scene, case, found, options, progress, number)
        else:
            notes.append("too large to try an edit of each layer in a minute: ranked by score alone; --trial tries all")
        report["localize"] = localize_section(found, scene.fault.target)
        if scan is not None:
            report["scan"], more = run_scan(scan, scene, case, found, options, progress)
            notes += more
    except Inconclusive as reason:
        return finish(report, options, started, inputs, notes, inconclusive=str(reason))
    return finish(report, options, started, inputs, notes)
