"""What a lab run's data are worth, read after the fact from the planted truth: measurement, never feedback."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from harness.lab.planted import label
from harness.lab.world import World
from harness.types import Message


def kinds(conversations: Iterable[Sequence[Message]], world: World) -> Mapping[str, int]:
    """How many pairs of each planted kind there are (`useful`, `known`, `unasked`, `false`, `filler`, `off_world`)."""
    return Counter(label(tuple(messages), world).kind for messages in conversations)


def useful_share(conversations: Sequence[Sequence[Message]], world: World) -> float:
    """Share of pairs that are asked, unknown to the target, and true."""
    return kinds(conversations, world).get("useful", 0) / max(1, len(conversations))
