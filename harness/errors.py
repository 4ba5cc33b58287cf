"""The errors that a user may see.

Every one is a sentence that says what happened, where, and what to do about it; the command line prints
that sentence and nothing else, and exits with the class's status. Anything that is not a `HarnessError` is
a defect of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable


class HarnessError(Exception):
    """Base of every designed error. `exit_status` is what the command line exits with."""

    exit_status = 2


class ConfigError(HarnessError):
    """A setting is unknown, of the wrong type, or contradicts another."""


class InputError(HarnessError):
    """A file or data set that the user named is missing, unreadable, malformed or leaves nothing to use."""


class PrerequisiteError(HarnessError):
    """This machine lacks something that the run needs: a package, a device, memory, weights, a server."""


class BudgetError(HarnessError):
    """The declared budget cannot do the work, or is spent before the declared line is reached."""


class RunLockedError(HarnessError):
    """Another process is writing this run."""


class StageError(HarnessError):
    """A stage could not finish: disk full, a failing self-check, a service that stays down."""

    exit_status = 3


class DiskFullError(StageError):
    """The disk or a quota is full: as with bad input, the user has to act before anything can go on."""

    exit_status = 2


def suggest(name: str, known: Iterable[str]) -> str:
    """Return `"; did you mean 'x'?"` for the nearest known name, else the list of known names."""
    import difflib  # paid for by a mistake alone

    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(names)}" if names else ""
