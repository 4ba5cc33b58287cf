"""Progress: bars on a terminal, one plain line a step elsewhere, nothing on standard output for a pipe to trip on.

How long a stage has left follows from the rate that it has shown here: from its second step on, and not from a plan.
"""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from harness.screen import rough_duration, say


class Progress:
    """Shows the stages of a run. `close` must be called, also after an error."""

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._last: dict[str, float] = {}
        self._began: dict[str, tuple[float, int]] = {}
        if not quiet and self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bars

            self._bars = Bars(
                TextColumn("{task.description:<22}"),
                BarColumn(24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(file=self._stream),
            )
            self._bars.start()

    def update(self, label: str, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` steps of `label` are finished. Plain lines come at most every two seconds."""
        if self._quiet:
            return
        note = ", ".join(part for part in (note, self._left(label, done, total)) if part)
        if self._bars is not None:
            if label not in self._tasks:
                self._tasks[label] = self._bars.add_task(label, total=total, note=note)
            self._bars.update(self._tasks[label], completed=done, total=total, note=note)
            return
        now = time.monotonic()
        if done < total and now - self._last.get(label, 0.0) < 2.0:
            return
        self._last[label] = now
        say(f"  {label}: {done}/{total}" + (f", {note}" if note else ""), self._stream)

    def _left(self, label: str, done: int, total: int) -> str:
        """The time that is left at the rate since the first step that was seen; empty before there is one."""
        now = time.monotonic()
        started, before = self._began.setdefault(label, (now, done))
        if before >= done or done >= total:
            return ""
        return f"{rough_duration((now - started) / (done - before) * (total - done))} left"

    def line(self, text: str) -> None:
        """Print a line above the bars."""
        if self._quiet:
            return
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            say(text, self._stream)

    def close(self) -> None:
        """Stop the bars."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
