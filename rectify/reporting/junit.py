"""A report as JUnit XML: one test case a gate."""

from __future__ import annotations

from xml.etree import ElementTree

from rectify.reporting.content import gates, headline, reason
from rectify.reporting.verdict import Report, explain
from rectify.reporting.words import printable


def to_junit(report: Report) -> str:
    """The report as JUnit XML.

    A violated gate is a failure. An inconclusive run is one error, so that it is never green. A run without gates has
    one test case that says that the command did its work: CI systems take an empty suite for a broken one.
    """
    inconclusive = report["verdict"] == "inconclusive"
    cases = [] if inconclusive else gates(report)
    failures = sum(not gate.passed for gate in cases)
    numbers = {"tests": str(len(cases) or 1), "failures": str(failures), "errors": str(int(inconclusive))}
    run = report.get("run") or {}
    root = ElementTree.Element("testsuites", {"name": "rectify", **numbers})
    head = {
        "name": f"rectify {report['command']}",
        **numbers,
        "skipped": "0",
        "time": f"{run.get('duration_s') or 0:.3f}",
    }
    if run.get("time"):
        head["timestamp"] = str(run["time"]).split("+")[0]
    suite = ElementTree.SubElement(root, "testsuite", head)
    group = f"rectify.{report['command']}"
    for gate in cases:
        case = ElementTree.SubElement(suite, "testcase", {"classname": group, "name": gate.name, "time": "0"})
        if gate.passed:
            ElementTree.SubElement(case, "system-out").text = explain(gate)
        else:
            kind = "NotMeasured" if gate.value is None else "GateViolated"
            ElementTree.SubElement(case, "failure", {"message": explain(gate), "type": kind}).text = explain(gate)
    if not cases:
        case = ElementTree.SubElement(suite, "testcase", {"classname": group, "name": "verdict", "time": "0"})
        words = printable("; ".join(filter(None, (headline(report), reason(report)))))
        if inconclusive:
            ElementTree.SubElement(case, "error", {"message": words, "type": "Inconclusive"}).text = words
        else:
            ElementTree.SubElement(case, "system-out").text = words
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
