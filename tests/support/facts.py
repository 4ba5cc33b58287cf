"""What a signal's preparation or diagnosis says, by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from harness.facts import Fact


def by_name(facts: Iterable[Fact]) -> dict[str, Any]:
    """The values of labelled facts, each of which has a name of its own and a meaning."""
    found = {fact.name: fact.value for fact in facts}
    assert len(found) == len(list(facts)) and all(fact.meaning for fact in facts)
    return found
