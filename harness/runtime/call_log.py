"""A run's account of endpoint calls: the ledger, with the stage and signal that the calls are for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.models.endpoint.calls import Call, Spent
from harness.runtime.ledger import Ledger


class RunCallLog:
    """`CallLog` of one stage of a run. `notify` appends an event, by which the run says where texts go."""

    def __init__(self, ledger: Ledger, stage: str, signal: str, notify: Callable[..., None]) -> None:
        self._ledger, self._stage, self._signal, self._notify = ledger, stage, signal, notify

    def record(self, call: Call) -> None:
        """Add one attempt."""
        self._ledger.add_call(self._stage, self._signal, call)

    def spent(self) -> Spent:
        """The sum over all attempts of the run."""
        return self._ledger.spent

    def answer(self, key: str) -> Mapping[str, Any] | None:
        """A stored answer."""
        return self._ledger.answer(key)

    def keep(self, key: str, answer: Mapping[str, Any]) -> None:
        """Store an answer."""
        self._ledger.keep_answer(key, answer)

    def announce(self, host: str, role: str, texts: str) -> None:
        """Say which texts go to another machine, in the event log and on the screen."""
        self._notify("texts_leave", stage=self._stage, host=host, role=role, texts=texts)

    def notice(self, text: str) -> None:
        """Say it in the event log and on the screen."""
        self._notify("notice", stage=self._stage, text=text)
