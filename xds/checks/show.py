"""The report as documents that machines read: JSON, and JUnit's XML for a pipeline.

Owns their fields; it must never decide about severity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final
from xml.etree import ElementTree as ET

import msgspec

from xds.checks.finding import Result, Severity, exit_code

FORMAT: Final = 1
"""Version of the JSON document: it rises when a field changes its meaning or goes."""


def as_json(results: Sequence[Result]) -> bytes:
    """Return one JSON document: every result, the counts, and the exit code."""
    document = {
        "version": FORMAT,
        "results": [
            {
                "check": one.check,
                "category": one.category,
                "severity": one.severity,
                "subject": one.subject,
                "message": one.message,
                "fix": one.fix,
            }
            for one in results
        ],
        "counts": {severity.value: _count(results)[severity] for severity in Severity},
        "exitCode": exit_code(results),
    }
    return msgspec.json.encode(document)


def as_junit(results: Sequence[Result]) -> str:
    """Return a JUnit document: a suite for each category, a failure for each error; warnings are output."""
    top = ET.Element("testsuites", name="proa check")
    for category in dict.fromkeys(one.category for one in results):
        cases = [one for one in results if one.category == category]
        counts = _count(cases)
        suite = ET.SubElement(
            top, "testsuite", name=category, tests=str(len(cases)), failures=str(counts[Severity.ERROR])
        )
        for one in cases:
            name = f"{one.check} {one.subject}".strip()
            case = ET.SubElement(suite, "testcase", classname=f"proa.{category}", name=_text(name))
            words = f"{one.message}\n{one.fix}" if one.fix else one.message
            if one.severity is Severity.ERROR:
                ET.SubElement(case, "failure", message=_text(one.message)).text = _text(words)
            elif one.severity is Severity.WARNING:
                ET.SubElement(case, "system-out").text = _text(f"warning: {words}")
    ET.indent(top)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(top, encoding="unicode") + "\n"


def _count(results: Sequence[Result]) -> Counter[Severity]:
    return Counter(one.severity for one in results)


def _text(words: str) -> str:
    """Return the text without what XML 1.0 cannot hold."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in words
    )
