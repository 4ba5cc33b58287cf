from __future__ import annotations

from harness.synthesis.duplicates import drop_duplicates, duplicate_key
from harness.types import Message, Sample


def sample(name: str, question: str, answer: str, system: str = "s") -> Sample:
    turns = (Message("system", system), Message("user", question), Message("assistant", answer))
    return Sample(name, ("seed",), None, "p", turns, f"raw {name}", "g", "stop")


def test_the_first_of_equals_stays() -> None:
    samples = [
        sample("a", "What is X?", "A thing."),
        sample("b", "Who?", "Me."),
        sample("c", " what is\nx?", "a  THING.", system="other"),
        sample("d", "What is X?", "Another thing."),
        sample("e", "Who?", "Me."),
    ]
    unique = drop_duplicates(samples)
    assert [kept.id for kept in unique.kept] == ["a", "b", "d"]
    assert [(reject.item_id, reject.reason, reject.detail) for reject in unique.rejects] == [
        ("c", "duplicate", "a"),
        ("e", "duplicate", "b"),
    ]
    assert unique.rejects[0].raw == "raw c"


def test_earlier_samples_count() -> None:
    first = sample("a", "Who?", "Me.")
    unique = drop_duplicates([sample("b", "Who?", "Me.")], seen=[first])
    assert not unique.kept
    assert unique.rejects[0].detail == "a"


def test_compatibility_forms_are_equal_and_turns_are_not_mixed() -> None:
    assert duplicate_key(sample("a", "ﬁne", "²")) == duplicate_key(sample("b", "fine", "2"))
    assert duplicate_key(sample("a", "x y", "z")) != duplicate_key(sample("b", "x", "y z"))
