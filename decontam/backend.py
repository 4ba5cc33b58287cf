"""The backend of contamination checks: what an engine has to answer, and nothing about what the answers mean.

An engine does two things over a corpus of training documents: it says which documents contain which *phrases* (token
sequences, contiguous, in order), and which documents' vectors are near which query vectors. Everything that turns
answers into verdicts is shared and lives elsewhere: what the phrases of a test item are, coverage unions, document
frequencies, thresholds, evidence spans. So two engines that answer equally decide equally, and parity is a property of
the design and not of two implementations of a score.

Rules of the contract
- Documents come in shards of `Corpus.shard_size` and are numbered from 0 over the whole corpus. A corpus may be read
  several times and never has to fit into memory. Text holds no lone surrogates (a corpus replaces them).
- Text is searched as `Shard.plain` has it, and phrases are of text that went the same way, so that two spellings of one
  word are equal for every engine. `Shard.texts` is for people and for embedders.
- A token is what Elasticsearch's `standard` analyzer makes (`decontam.tokens`): UAX #29 words in simple lower case,
  never longer than 255 UTF-16 units, never with white space in it. Phrases arrive as tokens, not as text, so an engine
  with its own analyzer must not analyse them again (Elasticsearch: `match_phrase` with the query analyzer `whitespace`
  over the tokens joined by blanks; documents are analysed by `standard`, named explicitly).
- Phrases are distinct, not empty, and have at most `MAX_PHRASE` tokens; longer texts are confirmed by shared code.
- Answers are per shard and complete for it: one `Postings` (or `Neighbours`) for every shard that is not in `skip`, in
  order, also where nothing was found. An engine that answers by phrase has to buffer by shard (on disk).
- Answers are exact. An engine that approximates (quantised vectors, HNSW) must be set not to.
- `cap` (only under open-instruct's rules) keeps of each phrase the first `cap` documents in corpus order, over all
  shards. `top` (likewise) promises that the answers of all shards together hold each query's `top` best documents;
  they may hold more.
- Cosines are cosines. Elasticsearch's `_score` for unit vectors, (1 + cos) / 2, is a unit for people
  (`harness.config.DecontamConfig`), and an engine converts it before it answers.
- A service that fails, or a disk that fills, is a `StageError`; what is missing on this machine is a
  `PrerequisiteError`. A failure is never an empty answer.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from decontam.tokens import plain

MAX_PHRASE = 128
"""The longest phrase, in tokens, that an engine is asked for."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Shard:
    """Consecutive documents: `texts[i]` is document `first + i`; `vectors` (n, d), unit length, if they were asked for.

    `index` counts shards from 0: `first == index * shard_size`.
    """

    index: int
    first: int
    texts: Sequence[str]
    vectors: Vectors | None = None

    @cached_property
    def plain(self) -> Sequence[str]:
        """The texts as they are compared (`decontam.tokens.plain`); engines search these."""
        return [plain(text) for text in self.texts]

    def text(self, document: int) -> str:
        """The text of a document by its number in the corpus."""
        return self.texts[document - self.first]


class Corpus(Protocol):
    """The training documents, readable again and again, shard by shard."""

    @property
    def digest(self) -> str:
        """Hash of all texts, in order, with the shard size: equal digest, equal answers. 32 hex digits."""

    @property
    def vectors_digest(self) -> str | None:
        """Hash of `digest` with what made the vectors; None where the corpus has none."""

    @property
    def size(self) -> int:
        """The number of documents."""

    @property
    def shard_size(self) -> int:
        """Documents of every shard but the last."""

    def shards(self, *, skip: Container[int] = (), vectors: bool = False) -> Iterator[Shard]:
        """All shards but those whose index is in `skip`, in order, with vectors where they are asked for."""


@dataclass(frozen=True, slots=True)
class Phrases:
    """Distinct phrases. Phrase p is the tokens `vocabulary[t] for t in ids[starts[p]:starts[p + 1]]`.

    `ids` int32 (total,), `starts` int64 (n + 1,).
    """

    vocabulary: Sequence[str]
    ids: NDArray[np.int32]
    starts: Ints

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Ints:
        """Tokens of each phrase, (n,)."""
        return np.diff(self.starts)

    def words(self, phrase: int) -> tuple[str, ...]:
        """The tokens of one phrase."""
        return tuple(self.vocabulary[t] for t in self.ids[self.starts[phrase] : self.starts[phrase + 1]])


@dataclass(frozen=True, slots=True)
class Places:
    """A shard's tokens, `ids` and `starts` as `TokenIds.of` gives them, and where postings begin among them.

    `first` (n,) is the token of `ids` at which the phrase of each posting first stands, -1 where it was not found.
    """

    ids: NDArray[np.int32]
    starts: Ints
    first: Ints


@dataclass(frozen=True, slots=True)
class Postings:
    """The phrases in the documents of a shard: parallel arrays, sorted by (document, phrase), pairs once.

    `places` is for engines that come by it; for the others it is found again (`decontam.rarity`).
    """

    shard: Shard
    document: Ints
    phrase: Ints
    places: Places | None = None


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Pairs of a shard whose cosine is at least the floor: parallel arrays, sorted by (document, query)."""

    shard: Shard
    document: Ints
    query: Ints
    cosine: Floats


class SearchBackend(Protocol):
    """An engine. One object may be asked several times, about one corpus or several."""

    @property
    def name(self) -> str:
        """`embedded` or `elasticsearch` with what identifies the server, for reports."""

    def find(
        self, corpus: Corpus, phrases: Phrases, *, cap: int | None = None, skip: Container[int] = ()
    ) -> Iterator[Postings]:
        """The places of `phrases`, one answer per shard. With `cap`, `skip` is empty."""

    def nearest(
        self, corpus: Corpus, queries: Vectors, *, floor: float, top: int | None = None, skip: Container[int] = ()
    ) -> Iterator[Neighbours]:
        """Documents whose vector has a cosine of at least `floor` with a row of `queries` (q, d), unit length.

        With `top`, `floor` is -1 and `skip` is empty.
        """

    def close(self) -> None:
        """Let go of connections and scratch files. An index named by a digest stays and is reused."""
