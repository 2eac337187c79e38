"""The outcome of a check: how bad, about what, why, and the command that mends it.

Owns the values and the exit code that they lead to; it must never print.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass


class Severity(enum.Enum):
    """How bad: an ERROR breaks the mesh or some of its pods, a WARNING may."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found wrong with one subject (``Kind namespace/name``, or what else has a name)."""

    severity: Severity
    subject: str
    message: str
    fix: str
    """The exact command that mends it, or the one that tells what no command can mend from here."""


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the report; ``check`` is the stable id, ``category`` its part before the dot."""

    check: str
    severity: Severity
    subject: str
    message: str
    fix: str

    @property
    def category(self) -> str:
        """The part of the cluster that the check looks at."""
        return self.check.partition(".")[0]


def error(subject: str, message: str, fix: str) -> Finding:
    """Return a finding that breaks something."""
    return Finding(Severity.ERROR, subject, message, fix)


def warning(subject: str, message: str, fix: str) -> Finding:
    """Return a finding that may break something."""
    return Finding(Severity.WARNING, subject, message, fix)


def exit_code(results: Iterable[Result]) -> int:
    """Return 1 when something is broken, 3 when there are only warnings, 0 when all is well."""
    found = {result.severity for result in results}
    if Severity.ERROR in found:
        return 1
    return 3 if Severity.WARNING in found else 0
