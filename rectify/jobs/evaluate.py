"""``rectify evaluate``: measure a model, or two, and judge the gates."""

from __future__ import annotations

import time
from typing import Any

from rectify.errors import Inconclusive, UsageError
from rectify.files.architectures import Subject
from rectify.jobs.common import Inputs, Options, Progress, begin, finish
from rectify.jobs.measuring import check_chance, fault_of, judge_holdout, measure
from rectify.sections import pairs_section


def run_evaluate(
    inputs: Inputs, options: Options, *, against: Subject | None = None, progress: Progress
) -> dict[str, Any]:
    """Measure the model, and the model ``against`` which it is held, and judge the gates.

    Raises
    ------
    RectifyError
        If there is nothing to measure, or it cannot be judged.
    """
    report, started = begin("evaluate", inputs, options), time.time()
    if inputs.data is None and inputs.pairs is None and inputs.holdout is None:
        raise UsageError(
            "nothing to measure: give --data DIR (labelled images), --pairs DIR|CSV, or --clean and --poisoned"
        )
    first = against or inputs.subject
    target = None
    try:
        progress.start("measuring", None)
        fault = fault_of(inputs, options, first) if inputs.pairs or inputs.holdout else None
        if fault is not None:
            target = fault.target
            if inputs.pairs:
                report["pairs"] = pairs_section(inputs.pairs, fault)
        after = measure(inputs.subject.network, inputs, options, target, fault)
        check_chance(after if against is None else measure(first.network, inputs, options, target, fault), inputs)
        report["metrics"]["after"] = after.to_dict()
        if against is not None:
            report["metrics"]["before"] = measure(against.network, inputs, options, target, fault).to_dict()
        judge_holdout(report, inputs, options, inputs.subject.network, fault, against.network if against else None)
        progress.stop()
    except Inconclusive as reason:
        return finish(report, options, started, inputs, [], inconclusive=str(reason))
    return finish(report, options, started, inputs, [])
