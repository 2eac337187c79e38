"""The traffic of a run: `shop load` as a child, its reports once a second as values.

It owns the reading of that stream; it must never judge a number.
"""

from __future__ import annotations

import threading

import msgspec

from xds.demo.processes import Child, DemoError
from xds.demo.report import Second

# What is in flight when the load is told to stop may wait for its own timeout of 10 s.
_FINAL_S = 15.0


class Load:
    """A running `shop load`."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._seconds: list[Second] = []
        self._final: Second | None = None
        self._reader = threading.Thread(target=self._read, name="load reports", daemon=True)
        self._reader.start()

    @property
    def is_alive(self) -> bool:
        """Tell whether requests are still being sent."""
        return self._child.is_alive

    @property
    def seconds(self) -> tuple[Second, ...]:
        """What has been reported so far, one entry a second."""
        return tuple(self._seconds)

    def finish(self) -> Second:
        """Stop sending, wait for what is in flight, and return the final report."""
        self._child.stop()
        self._reader.join(_FINAL_S)
        if self._final is None:
            message = f"shop load ended without a report:\n{self._child.tail()}"
            raise DemoError(message)
        return self._final

    def _read(self) -> None:
        decode = msgspec.json.Decoder(Second).decode
        output = self._child.process.stdout
        if output is None:
            return
        with output:
            for line in output:
                report = decode(line)
                if report.type == "final":
                    self._final = report
                else:
                    self._seconds.append(report)
