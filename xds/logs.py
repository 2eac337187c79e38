"""Lines of log for people: a constant event, then its fields as ``key=value``.

Owns the form of a line; it must never add a field that the caller did not give, or print a control character.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; everything else was given as ``extra``."""


class FieldsFormatter(logging.Formatter):
    """``time level logger event key=value …``; values with spaces or control characters are quoted."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        """Return the line of a record; the traceback, if there is one, follows it."""
        fields = ((key, str(value)) for key, value in vars(record).items() if key not in _STANDARD)
        return " ".join((super().formatMessage(record), *(f"{key}={_shown(value)}" for key, value in fields)))


def to_stderr(level: int = logging.INFO) -> None:
    """Send the log to standard error, one line a record; stdout is for answers."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(FieldsFormatter())
    logging.basicConfig(level=level, handlers=[stream])
    # It says at INFO that files changed, at every edit; what came of them is for us to say.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)


def _shown(value: str) -> str:
    return value if value and value.isprintable() and " " not in value else repr(value)
