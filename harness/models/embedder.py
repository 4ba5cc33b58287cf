"""Texts as unit vectors: one interface over sentence-transformers, an HTTP endpoint, given vectors, and hashed words.

Everything that compares texts by meaning (similarity to validation items, choosing validation items, contamination)
takes an `Embedder`, so that the model is a setting. `lexical` needs no model: it hashes words, so it sees shared words
and no paraphrase; the lab and tests run with it. Given vectors serve models that do not run beside ours. What this
gives up: separate encoders for queries and documents; whoever needs a prefix on one side puts it before the text.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from harness.errors import InputError, PrerequisiteError, StageError
from harness.models.endpoint.answers import retry_after
from harness.models.endpoint.bodies import estimate, message_of, parse_body, wrapped_error
from harness.models.endpoint.embeddings import read_embeddings
from harness.models.given_vectors import keys_file, read_array, read_parquet, text_key
from harness.models.keys import read_key
from harness.models.model_files import folder_digest
from harness.types import Usage, file_hash, well_formed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.config import EmbedderConfig

    Vectors: TypeAlias = NDArray[np.float32]

KEY_VARIABLE = "HARNESS_EMBEDDER_KEY"
"""The environment variable that an endpoint's key is read from; it is written nowhere."""

RETRIED = (408, 429, 500, 502, 503, 504)
"""Statuses of an endpoint that may pass."""

LEXICAL_VERSION = 1
LEXICAL_DIMENSION = 2048


class Embedder(Protocol):
    """Turns texts into vectors whose dot product is their cosine similarity."""

    @property
    def name(self) -> str:
        """The model, as records and messages name it."""

    @property
    def identity(self) -> str:
        """The facts that decide the vectors of given texts, for stage identities."""

    @property
    def truncated(self) -> int:
        """The number of texts that were cut to fit the model so far; 0 where the embedder cannot know."""

    def embed(self, texts: Sequence[str], ids: Sequence[str] | None = None) -> Vectors:
        """Unit rows, float32 [texts, dimension], in order; the row of a text without content is zero.

        `ids` are the rows' ids, by which given vectors may be matched. A service that stays down raises `StageError`.
        """

    def usage(self) -> list[Usage]:
        """The cost of embedding since the last call."""


def open_embedder(config: EmbedderConfig) -> Embedder:
    """The embedder that the settings name. A model is loaded at the first `embed`; what can be checked before, is."""
    if config.kind == "lexical":
        return LexicalEmbedder(config)
    if config.kind == "vectors":
        return GivenVectors(config)
    if config.kind == "endpoint":
        return EndpointEmbedder(config)
    return SentenceEmbedder(config)


def embedder_identity(config: EmbedderConfig) -> str:
    """The facts that decide an embedder's vectors, without loading it: model, revision, what is put before a text.

    Where an endpoint runs is no part of it; `revision` tells two models of one name apart.
    """
    if config.kind == "lexical":
        return f"lexical-{LEXICAL_VERSION}:{config.dimension or LEXICAL_DIMENSION}"
    prompt = "" if config.prompt is None else ":" + hashlib.sha256(config.prompt.encode()).hexdigest()[:8]
    if config.kind == "endpoint":
        return f"endpoint:{config.id}@{config.revision or ''}{prompt}"
    path = Path(config.id).expanduser()
    if config.kind == "vectors":
        keys = [key for key in (keys_file(path),) if key.is_file()]
        return "vectors:" + "".join(file_hash(file) for file in (path, *keys))
    if path.is_dir():
        return f"files:{folder_digest(path, deep=True)}:{config.dtype}{prompt}"
    return f"{config.id}@{config.revision or 'main'}:{config.dtype}{prompt}"


class _Base:
    """The base of the embedders: identity, accounting, and the checks on what a model returned."""

    truncated = 0

    def __init__(self, config: EmbedderConfig) -> None:
        self._config = config
        self._usage: list[Usage] = []
        self._width = config.dimension

    @property
    def name(self) -> str:
        """The model's id."""
        return self._config.id

    @property
    def identity(self) -> str:
        """See `embedder_identity`."""
        return embedder_identity(self._config)

    def usage(self) -> list[Usage]:
        """The cost of embedding since the last call."""
        spent, self._usage = self._usage, []
        return spent

    def embed(self, texts: Sequence[str], ids: Sequence[str] | None = None) -> Vectors:
        """Unit rows, float32 [texts, dimension]; blank texts are not sent to the model and give zero rows."""
        import numpy as np

        texts = [well_formed(text) for text in texts]
        full = [i for i, text in enumerate(texts) if text.strip()]
        if not full:
            return np.zeros((len(texts), self._width or 0), dtype=np.float32)
        started = time.perf_counter()
        rows = np.asarray(
            self._raw([texts[i] for i in full], None if ids is None else [ids[i] for i in full]), dtype=np.float32
        )
        self._check(rows)
        out = np.zeros((len(texts), rows.shape[1]), dtype=np.float32)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        out[full] = rows / np.where(norms > 0, norms, 1)
        self._spend(len(full), time.perf_counter() - started)
        return out

    def _check(self, rows: Vectors) -> None:
        import numpy as np

        if self._width is not None and rows.shape[1] != self._width:
            raise StageError(
                f"the embedder '{self.name}' gives vectors of {rows.shape[1]} numbers, expected are {self._width}; "
                "correct models.embedder.dimension, or name the model that was meant"
            )
        if not np.isfinite(rows).all():
            advice = "check the server" if self._config.kind == "endpoint" else "with dtype bfloat16, try float32"
            raise StageError(f"the embedder '{self.name}' gives numbers that are not finite; {advice}")
        self._width = rows.shape[1]

    def _spend(self, texts: int, seconds: float) -> None:
        """Book nothing: no model ran."""

    def _raw(self, texts: Sequence[str], ids: Sequence[str] | None) -> Any:
        """The model's own vectors of at least one text, none of them blank."""
        raise NotImplementedError


class LexicalEmbedder(_Base):
    """Words and pairs of neighbouring words, hashed with signs into a fixed number of features, 1 + log counts.

    No vocabulary is fitted, so equal texts have equal vectors in every process. Hashing 2,048 features adds noise of
    about 1/sqrt(2048) = 0.02 to a cosine (Weinberger et al. 2009, arXiv 0902.2206).
    """

    def __init__(self, config: EmbedderConfig) -> None:
        super().__init__(config)
        self._width = config.dimension or LEXICAL_DIMENSION

    def _raw(self, texts: Sequence[str], ids: Sequence[str] | None) -> Any:
        import numpy as np
        from sklearn.feature_extraction.text import HashingVectorizer

        hashing = HashingVectorizer(n_features=self._width, ngram_range=(1, 2), norm=None, dtype=np.float32)
        counts = hashing.transform(texts)
        counts.data = np.sign(counts.data) * (1 + np.log(np.maximum(np.abs(counts.data), 1)))
        return counts.toarray()


class SentenceEmbedder(_Base):
    """A sentence-transformers model from the hub or a folder, on the GPU where there is one."""

    def __init__(self, config: EmbedderConfig) -> None:
        super().__init__(config)
        if find_spec("sentence_transformers") is None:
            raise PrerequisiteError(
                f"the embedder '{config.id}' needs the package sentence-transformers; install it with "
                "pip install 'harness[embed]', or use models.embedder.id=lexical"
            )
        path = Path(config.id).expanduser()
        if config.id.startswith((".", "/", "~")) and not path.is_dir():
            raise InputError(f"there is no folder {config.id} to load the embedder from; correct models.embedder.id")
        if path.is_dir() and not (path / "modules.json").is_file():
            raise InputError(
                f"{config.id} is no sentence-transformers model: it has no modules.json, so how its tokens are pooled "
                "is not known; save it with SentenceTransformer.save"
            )
        self._path = str(path) if path.is_dir() else config.id
        self._model: Any = None
        self._tokens = 0

    def _load(self) -> Any:
        if self._model is None:
            import torch
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging

            logging.disable_progress_bar()
            c = self._config
            try:
                self._model = SentenceTransformer(
                    self._path, revision=c.revision, model_kwargs={"dtype": getattr(torch, c.dtype)}
                ).eval()
            # Offline, gated, misspelt and interrupted end here, each as another class of another package.
            except Exception as error:
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
                raise PrerequisiteError(
                    f"the embedder '{c.id}' cannot be loaded ({reason}); check models.embedder.id and the access to "
                    "the Hugging Face hub, or name a folder"
                ) from None
        return self._model

    def _raw(self, texts: Sequence[str], ids: Sequence[str] | None) -> Any:
        model, c = self._load(), self._config
        prefixed = [(c.prompt or "") + text for text in texts]
        lengths = [len(row) for row in model.tokenizer(prefixed, verbose=False)["input_ids"]]
        longest = model.max_seq_length or max(lengths)
        self.truncated += sum(n > longest for n in lengths)
        self._tokens = sum(min(n, longest) for n in lengths)
        prompt = {} if c.prompt is None else {"prompt": c.prompt}
        return model.encode(list(texts), batch_size=c.batch_size, show_progress_bar=False, **prompt)

    def _spend(self, texts: int, seconds: float) -> None:
        flops = 2.0 * sum(p.numel() for p in self._model.parameters()) * self._tokens
        self._usage.append(
            Usage(
                role="embedder",
                model=self.name,
                prompt_tokens=self._tokens,
                completion_tokens=0,
                calls=texts,
                seconds=seconds,
                flops=flops,
            )
        )


class EndpointEmbedder(_Base):
    """A model behind an OpenAI-compatible `POST {url}/embeddings` (vLLM, text-embeddings-inference, OpenAI).

    Refused connections, time-outs and the statuses 408, 429 and 5xx, also within a success, are retried `RETRIES`
    times, waiting 1, 2, 4 ... s or as long as the server says.
    """

    RETRIES = 5
    BACKOFF = 1.0

    def __init__(self, config: EmbedderConfig) -> None:
        super().__init__(config)
        if not (config.url or "").startswith(("http://", "https://")):
            raise InputError(f"models.embedder.url is {config.url}; it must begin with http:// or https://")
        self._url = f"{(config.url or '').rstrip('/')}/embeddings"
        self._session: Any = None
        self._tokens = self._calls = 0

    def _open(self) -> Any:
        if self._session is None:
            import requests
            from requests.adapters import HTTPAdapter
            from urllib3.util import Retry

            retry = Retry(
                total=self.RETRIES,
                backoff_factor=self.BACKOFF,
                status_forcelist=RETRIED,
                allowed_methods=None,
                raise_on_status=False,
            )
            self._session = requests.Session()
            for scheme in ("http://", "https://"):
                self._session.mount(scheme, HTTPAdapter(max_retries=retry))
            if key := read_key(KEY_VARIABLE):
                self._session.headers["Authorization"] = f"Bearer {key}"
        return self._session

    def _raw(self, texts: Sequence[str], ids: Sequence[str] | None) -> Any:
        self._tokens = self._calls = 0
        step = self._config.batch_size
        prompt = self._config.prompt or ""
        rows = [row for i in range(0, len(texts), step) for row in self._ask([prompt + t for t in texts[i : i + step]])]
        if len(widths := {len(row) for row in rows}) > 1:
            raise StageError(
                f"the embedding endpoint {self._url} gives vectors of {' and '.join(map(str, sorted(widths)))} numbers "
                "for texts of one run; all have to be of one length"
            )
        return rows

    def _ask(self, texts: list[str]) -> list[list[float]]:
        where = f"the embedding endpoint {self._url}"
        for attempt in range(self.RETRIES + 1):
            reply = self._post(where, texts)
            error = wrapped_error(reply)
            if error is None:
                break
            status, said, waits = error
            if status not in RETRIED or attempt == self.RETRIES:
                raise StageError(f"{where} answers with error {status} for model '{self.name}': {said[:200]}")
            time.sleep(retry_after(waits) or self.BACKOFF * 2.0**attempt)
        rows, tokens = read_embeddings(reply, len(texts), where)
        self._tokens += sum(map(estimate, texts)) if tokens is None else tokens
        return rows

    def _post(self, where: str, texts: list[str]) -> Any:
        """The endpoint's reply as JSON; None where it is none."""
        import requests

        body = {"model": self._config.id, "input": texts, "encoding_format": "float"}
        try:
            answer = self._open().post(self._url, json=body, timeout=self._config.timeout)
        except requests.RequestException as error:
            raise StageError(
                f"{where} does not answer ({type(error).__name__}, {self.RETRIES} retries); check that it is running, "
                "then resume"
            ) from None
        self._calls += 1
        if answer.status_code in (401, 403):
            raise StageError(f"{where} refuses the key (status {answer.status_code}); set {KEY_VARIABLE}")
        if not answer.ok:
            said = message_of(answer.content)[:200]
            raise StageError(f"{where} answers with status {answer.status_code} for model '{self.name}': {said}")
        try:
            return parse_body(answer.content)
        except (ValueError, RecursionError):
            return None

    def _spend(self, texts: int, seconds: float) -> None:
        self._usage.append(
            Usage(
                role="embedder",
                model=self.name,
                prompt_tokens=self._tokens,
                completion_tokens=0,
                calls=self._calls,
                seconds=seconds,
            )
        )


class GivenVectors(_Base):
    """Vectors that were computed elsewhere, matched by the text's hash (`text_key`), else by row id.

    A parquet file has a column `vector` and one or more of `text`, `sha256` and `id`. `X.npy` holds [rows, dimension],
    `X.safetensors` a tensor `vectors`; beside either lies `X.keys` with one hash or id per line.
    """

    def __init__(self, config: EmbedderConfig) -> None:
        super().__init__(config)
        path = Path(config.id).expanduser()
        if not path.is_file():
            raise InputError(f"there is no file {path} with vectors; correct models.embedder.id")
        try:
            self._matrix, self._rows = read_parquet(path) if path.suffix == ".parquet" else read_array(path)
        except InputError:
            raise
        # A damaged file ends as another class of pyarrow, numpy or safetensors.
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
            raise InputError(f"{path} cannot be read as vectors ({reason}); write it again") from None

    def _raw(self, texts: Sequence[str], ids: Sequence[str] | None) -> Any:
        found = [self._rows.get(text_key(text)) for text in texts]
        if ids is not None:
            found = [self._rows.get(i) if row is None else row for row, i in zip(found, ids, strict=True)]
        missing = [text for text, row in zip(texts, found, strict=True) if row is None]
        if missing:
            raise InputError(
                f"{self.name} has no vector for {len(missing)} of {len(texts)} texts, first {missing[0][:60]!r}; embed "
                "them too, or name an embedder that runs a model"
            )
        return self._matrix[found]
