"""Source documents from a file or a public data set, with what was dropped and why.

A file that cannot be read as what it claims to be stops the run at its first bad line, because everything after it is
suspect; a document that is merely unusable (empty, too short, too long, a duplicate) is dropped and counted. Lengths
are counted in words, so that a seed set does not depend on which model's tokenizer happens to be in use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.config import SeedsConfig
from harness.errors import InputError
from harness.synthesis.duplicates import normalise_text
from harness.synthesis.labelled import ANSWER_FIELDS, QUESTION_FIELDS, find_labelled
from harness.synthesis.parsing import is_unicode
from harness.synthesis.tables import read_all
from harness.synthesis.turns import CONVERSATION_FIELDS, find_messages
from harness.types import Json, Message, Reject, Seed, chat, stable_hash, well_formed

TEXT_FIELDS = ("clean_text", "text", "raw_text", "content", *CONVERSATION_FIELDS)
"""Fields looked up for the document, in this order; the first three in the order of the released OptimSyn code."""

SEED_REASONS: Mapping[str, str] = {
    "seed_missing_field": "the row has no text field, and no question with its answer",
    "seed_bad_type": "the text is neither a string nor a conversation",
    "seed_bad_encoding": "the text holds unpaired surrogates, NUL characters or many replacement characters",
    "seed_empty": "the text is empty",
    "seed_too_short": "the text has fewer words than the minimum",
    "seed_too_long": "the text has more words or characters than the maximum",
    "seed_duplicate": "the text equals an earlier one but for case and white space",
}
"""Reason codes of dropped documents, with what each means."""

_RAW_CHARS = 2000
_REPLACEMENTS_SHARE = 0.005


@dataclass(frozen=True, slots=True)
class SeedReport:
    """Seeds in file order, and what happened to the rest: `read` = `kept` + the sum of `dropped`."""

    source: str
    seeds: tuple[Seed, ...]
    read: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    rejects: tuple[Reject, ...] = ()

    @property
    def kept(self) -> int:
        """The number of usable documents."""
        return len(self.seeds)

    @property
    def hash(self) -> str:
        """Hash of the kept seeds, ids (which hash content and origin) in order."""
        return stable_hash([seed.id for seed in self.seeds], length=32)

    def summary(self) -> str:
        """One line: read, kept, dropped by reason with an example of each."""
        line = f"{self.source}: {self.read} read, {self.kept} kept"
        for reason, count in self.dropped.items():
            example = next(reject for reject in self.rejects if reject.reason == reason)
            line += f"; {count} dropped as {reason} ({example.item_id}: {example.detail})"
        return line


@dataclass(frozen=True, slots=True)
class SeedLimits:
    """The limits of a usable document. Words are separated by white space."""

    min_words: int = 5
    max_words: int = 6000
    max_chars: int = 60000


def load_seeds(
    source: str | Sequence[str],
    *,
    text_field: str | None = None,
    question_field: str | None = None,
    answer_field: str | None = None,
    limit: int | None = None,
    limits: SeedLimits | None = None,
    domain: str = "",
    licence: str = "",
    keys: Sequence[str] = ("pmid",),
) -> SeedReport:
    """Read and check documents from one or several sources: files, folders, globs, data sets `org/name[:split]`.

    `text_field` names the field to read (default: the first of `TEXT_FIELDS` that a row has). A row without one that
    has question and answer is a labelled seed (`harness.synthesis.labelled`); so is every row where `question_field` or
    `answer_field` names a column. `limit` stops after
    that many usable documents. `domain` and `licence` replace what the rows say; `keys` are the fields copied to
    `Seed.keys`. The default `max_words` keeps documents under about 8k tokens, as the paper does.
    Raises `InputError` for a file that is missing, unreadable or malformed (with the line), and where no usable
    document is left; `PrerequisiteError` where a data set cannot be reached.
    """
    fields: tuple[str, ...] = TEXT_FIELDS if text_field is None else (text_field,)
    # Where a field is named for the text, a row without it is not looked at for anything else.
    looked_up = () if text_field is None else None
    labels = (question_field, answer_field) if question_field or answer_field else looked_up
    reader = _Reader(fields, labels, limits or SeedLimits(), domain, licence, tuple(keys))
    sources = (source,) if isinstance(source, str) else tuple(source)
    if limit is not None and limit < 1:
        raise InputError(f"a limit of {limit} documents from {', '.join(sources)} leaves none; give 1 or more")
    for name, rows in read_all(sources):
        if reader.take(name, rows, limit):
            break
    seeds, read, label = tuple(reader.seeds), reader.read, ", ".join(sources)
    dropped = dict(sorted(Counter(reject.reason for reject in reader.rejects).items()))
    if not seeds:
        raise InputError(_nothing_left(label, read, dropped, fields, reader.present, labels is not None))
    return SeedReport(source=label, seeds=seeds, read=read, dropped=dropped, rejects=tuple(reader.rejects))


def read_seeds(settings: SeedsConfig, *, domain: str = "", keys: Sequence[str] = ("pmid",)) -> SeedReport:
    """The documents that a run's settings name, as `load_seeds` reads them; `domain` where the settings have none."""
    return load_seeds(
        settings.sources,
        text_field=settings.text_field,
        question_field=settings.question_field,
        answer_field=settings.answer_field,
        limit=settings.limit,
        limits=SeedLimits(min_words=settings.min_words, max_words=settings.max_words),
        domain=settings.domain or domain,
        licence=settings.licence,
        keys=keys,
    )


class _Reader:
    """Turns rows into seeds, remembering what it saw: earlier texts, rejects, the fields of the first row."""

    def __init__(
        self,
        fields: tuple[str, ...],
        labels: tuple[str | None, ...] | None,
        limits: SeedLimits,
        domain: str,
        licence: str,
        keys: tuple[str, ...],
    ) -> None:
        self.fields, self.labels = fields, labels
        self.limits, self.domain, self.licence, self.keys = limits, domain, licence, keys
        self.seeds: list[Seed] = []
        self.read = 0
        self.rejects: list[Reject] = []
        self.present: list[str] = []
        self._seen: dict[str, str] = {}

    def take(self, name: str, rows: Iterable[tuple[int, Mapping[str, Any]]], limit: int | None) -> bool:
        """Read one table; True once there are as many documents as `limit` says."""
        for number, row in rows:
            self.read += 1
            self.present = self.present or sorted(map(str, row))
            seed = self._seed(name, number, row)
            if isinstance(seed, Reject):
                self.rejects.append(seed)
                continue
            self.seeds.append(seed)
            if len(self.seeds) == limit:
                return True
        return False

    def _seed(self, name: str, number: int, row: Mapping[str, Any]) -> Seed | Reject:
        place = well_formed(f"{name}#{row.get('doc_id') or row.get('id') or number}")
        present = next((f for f in self.fields if is_given(row.get(f)) and row[f] != []), None)
        if (labelled := self._labelled(row, present)) is not None:
            return self._made(place, row, "\n".join(m.content for m in labelled), labelled, least=1)
        if present is None:
            fields = well_formed(f"fields present: {', '.join(map(str, row))}")[:300]
            return Reject(place, "seed_missing_field", "", fields)
        value = row[present]
        text, messages = _document(value, talks=present in CONVERSATION_FIELDS or present not in TEXT_FIELDS)
        if text is None:
            what = "text that is no conversation" if isinstance(value, str) else f"a {type(value).__name__}"
            return Reject(place, "seed_bad_type", well_formed(str(value))[:_RAW_CHARS], f"'{present}' is {what}")
        return self._made(place, row, text, messages, self.limits.min_words)

    def _labelled(self, row: Mapping[str, Any], present: str | None) -> tuple[Message, ...] | None:
        """Question and answer of a row that has them and no text, or whose columns for them are named; else None."""
        if self.labels is None or (present is not None and not self.labels):
            return None
        return find_labelled(row, *self.labels)

    def _made(
        self, place: str, row: Mapping[str, Any], text: str, messages: tuple[Message, ...] | None, least: int
    ) -> Seed | Reject:
        """The seed of a row with this text, or why it is not usable. A labelled one may be shorter than a document."""
        problem = self._problem(text, place, least)
        if problem is not None:
            return Reject(place, problem[0], well_formed(text[:_RAW_CHARS]), problem[1])
        content: Json = text if messages is None else chat(messages)
        return Seed(
            id=stable_hash(place, content),
            text=text if messages is None else None,
            messages=messages,
            domain=self.domain or well_formed(str(row.get("domain") or "")),
            source=place,
            licence=self.licence or well_formed(str(row.get("licence") or row.get("license") or "")),
            keys={key: well_formed(str(row[key])) for key in self.keys if row.get(key) not in (None, "")},
        )

    def _problem(self, text: str, place: str, least: int) -> tuple[str, str] | None:
        """The reason and detail for dropping `text`, or None; a text without a problem is remembered."""
        words, limits = len(text.split()), self.limits
        if not is_unicode(text) or "\0" in text:
            return "seed_bad_encoding", "unpaired surrogate or NUL character"
        if text.count("�") > _REPLACEMENTS_SHARE * len(text):
            return "seed_bad_encoding", f"{text.count('�')} replacement characters"
        if not words:
            return "seed_empty", "no words"
        if words < least:
            return "seed_too_short", f"{words} words, minimum {least}"
        if words > limits.max_words:
            return "seed_too_long", f"{words} words, maximum {limits.max_words}"
        if len(text) > limits.max_chars:
            return "seed_too_long", f"{len(text)} characters, maximum {limits.max_chars}"
        first = self._seen.setdefault(stable_hash(normalise_text(text)), place)
        return None if first == place else ("seed_duplicate", f"equals {first}")


def is_given(value: Any) -> bool:
    """Whether a cell holds anything: JSON's null and NaN, which tables write for it, are nothing."""
    return value is not None and not (isinstance(value, float) and value != value)


def _document(value: Any, talks: bool) -> tuple[str | None, tuple[Message, ...] | None]:
    """A document's text, None where `value` is none, and its turns where it is a conversation.

    A string may stand for a conversation only where `talks`; one that looks like turns and is none is no text.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    messages = find_messages(value) if talks or not isinstance(value, str) else None
    if messages is not None:
        return "\n".join(message.content for message in messages), messages
    if isinstance(value, str) and not (talks and value.lstrip().startswith(("[{", '{"', "{'"))):
        return value, None
    return None, None


def _nothing_left(
    source: str,
    read: int,
    dropped: Mapping[str, int],
    fields: Sequence[str],
    present: Sequence[str],
    labelled: bool,
) -> str:
    if not read:
        return f"{source} has no rows, so no usable documents are left; give a file with documents"
    if dropped.get("seed_missing_field") == read:
        pair = f", or a question with its answer ({'|'.join(QUESTION_FIELDS)}, {'|'.join(ANSWER_FIELDS)})"
        return (
            f"{source}: none of its {read} rows has the field {' or '.join(fields)}{pair if labelled else ''} "
            f"(fields present: {', '.join(present) or 'none'}); name the one that holds the text"
        )
    counts = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
    return f"{source}: no usable documents left of {read} read ({counts}); relax the limits or give other documents"
