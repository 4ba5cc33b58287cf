"""The account of calls to endpoints: every attempt with what it used, answers for resuming, and hard limits.

A call that failed and was billed counts like any other. What is not known is None, never a guess: tokens of a call
whose answer never came, dollars of a model without a price. Toward a hard limit an unknown bill counts at its upper
bound, so a limit is never overstepped; what succeeded before it was reached is in the log and is not paid again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.config_models import PriceConfig
from harness.errors import BudgetError


@dataclass(frozen=True, slots=True)
class Call:
    """One attempt. `status` is `ok` or a short reason; tokens are None where the server did not say.

    `bound` is the most tokens that it can have been billed for: 0 for a request that was refused or never arrived.
    """

    role: str
    model: str
    host: str
    status: str
    finish_reason: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0
    usd: float | None = None
    bound_tokens: int = 0
    bound_usd: float = 0.0


@dataclass(frozen=True, slots=True)
class Spent:
    """The amounts that count toward the limits so far: known bills, and unknown ones at their bound."""

    tokens: int = 0
    usd: float = 0.0


class CallLog(Protocol):
    """The record of calls, which keeps their answers; a run's is its ledger."""

    def record(self, call: Call) -> None:
        """Add one attempt."""

    def spent(self) -> Spent:
        """The sum over all attempts of the run, earlier processes' included."""

    def answer(self, key: str) -> Mapping[str, Any] | None:
        """A stored answer."""

    def keep(self, key: str, answer: Mapping[str, Any]) -> None:
        """Store an answer."""

    def announce(self, host: str, role: str, texts: str) -> None:
        """Say, before the first call to a host that is another machine, which texts go there."""

    def notice(self, text: str) -> None:
        """Say something that the user should know of."""


@dataclass
class MemoryLog:
    """A log that lives with its process, for uses outside a run."""

    calls: list[Call] = field(default_factory=list)
    answers: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    announced: list[tuple[str, str, str]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def record(self, call: Call) -> None:
        """Add one attempt."""
        self.calls.append(call)

    def spent(self) -> Spent:
        """The sum over all attempts."""
        return Spent(sum(c.bound_tokens for c in self.calls), sum(c.bound_usd for c in self.calls))

    def answer(self, key: str) -> Mapping[str, Any] | None:
        """A stored answer."""
        return self.answers.get(key)

    def keep(self, key: str, answer: Mapping[str, Any]) -> None:
        """Store an answer."""
        self.answers[key] = answer

    def announce(self, host: str, role: str, texts: str) -> None:
        """Remember what was said."""
        self.announced.append((host, role, texts))

    def notice(self, text: str) -> None:
        """Remember what was said."""
        self.notices.append(text)


class Purse:
    """Hard limits on tokens and dollars. Every call reserves its upper bound before it goes out.

    `fits` is False while the bound does not fit beside what is reserved by calls in flight; `reserve` raises
    `BudgetError` once nothing is in flight and it still does not fit.
    """

    def __init__(self, log: CallLog, price: PriceConfig | None, max_usd: float | None, max_tokens: int | None) -> None:
        self._price, self._max_usd, self._max_tokens = price, max_usd, max_tokens
        self._log = log
        self._reserved_tokens, self._reserved_usd, self._open = 0, 0.0, 0

    @property
    def limited(self) -> bool:
        """Whether there is a limit at all."""
        return self._max_usd is not None or self._max_tokens is not None

    def usd(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Dollars, or None without a price."""
        return None if self._price is None else self._price.usd(prompt_tokens, completion_tokens)

    def reserve(self, prompt_tokens: int, completion_tokens: int) -> bool:
        """Take the bound of a call out of what is left; False where it has to wait for calls in flight."""
        tokens, usd = prompt_tokens + completion_tokens, self.usd(prompt_tokens, completion_tokens) or 0.0
        if self.limited:
            spent = self._log.spent()
            if reason := self._over(spent, tokens, usd):
                if self._open:
                    return False
                raise BudgetError(reason)
        self._reserved_tokens += tokens
        self._reserved_usd += usd
        self._open += 1
        return True

    def settle(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Give a reservation back; what the call really used is in the log by then."""
        self._reserved_tokens -= prompt_tokens + completion_tokens
        self._reserved_usd -= self.usd(prompt_tokens, completion_tokens) or 0.0
        self._open -= 1

    def _over(self, spent: Spent, tokens: int, usd: float) -> str:
        if self._max_tokens is not None and spent.tokens + self._reserved_tokens + tokens > self._max_tokens:
            return (
                f"the limit of {self._max_tokens:,} tokens on endpoints is reached: {spent.tokens:,} are spent and the "
                f"next call may take {tokens:,}. What succeeded is kept; raise runtime.max_tokens in the run's "
                "config.yaml and resume"
            )
        if self._max_usd is not None and spent.usd + self._reserved_usd + usd > self._max_usd:
            return (
                f"the limit of {self._max_usd:g} US dollars on endpoints is reached: {spent.usd:.4f} are spent and the "
                f"next call may cost {usd:.4f}. What succeeded is kept; raise runtime.max_usd in the run's config.yaml "
                "and resume"
            )
        return ""
