"""The server side of rollouts: a vLLM server that is given adapters and samples from them by token ids.

Prompts and completions travel as ids, so that nothing is lost between two tokenizers; log-probabilities are those of
the distribution that was sampled from, after temperature. Sampling is never cached: it belongs to weights that change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.errors import StageError
from harness.models.access import Connection
from harness.models.decoding import SERVED
from harness.models.endpoint.client import Reply, Request
from harness.models.forms import Form
from harness.training.rollouts import Decoding, Drawn
from harness.types import derive_seed


class ServerSampler:
    """`Sampler` over a connection that is opened at the first load. `form` holds completions to a JSON schema."""

    def __init__(self, connect: Callable[[], Connection], form: Form | None, characters: int | None) -> None:
        self._connect, self._form, self._characters = connect, form, characters
        self._connection: Connection | None = None

    @property
    def constrained(self) -> bool:
        """Whether a schema holds completions to a form."""
        return self._form is not None

    def load(self, adapter: Path) -> str:
        """Serve the adapter in this folder."""
        if self._connection is None:
            self._connection = self._connect()
        return self._connection.load_adapter(adapter)

    def sample(
        self, name: str, prompts: Sequence[tuple[Sequence[int], int]], decoding: Decoding, seed: int
    ) -> list[list[Drawn]]:
        """Completions of every prompt, all requests in flight together. Raises `StageError` where one fails."""
        assert self._connection is not None
        requests = [
            Request(
                "completions",
                self._body(name, ids, count, decoding, derive_seed(seed, i)),
                len(ids),
                count * decoding.max_tokens,
                cache=False,
            )
            for i, (ids, count) in enumerate(prompts)
        ]
        replies = self._connection.endpoint.send(requests)
        return [_read(reply, count) for reply, (_, count) in zip(replies, prompts, strict=True)]

    def _body(self, name: str, ids: Sequence[int], count: int, decoding: Decoding, seed: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": name,
            "prompt": list(ids),
            "n": count,
            "max_tokens": decoding.max_tokens,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": seed,
            **SERVED,
            "logprobs": 0,
            "return_token_ids": True,
        }
        if decoding.stops:
            body["stop_token_ids"] = list(decoding.stops)
        if self._form is not None and not decoding.free:
            schema = self._form.schema(self._characters)
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": self._form.name, "schema": schema, "strict": True},
            }
        return body


def _read(reply: Reply, count: int) -> list[Drawn]:
    if reply.reason:
        raise StageError(f"the policy's server gave no rollouts ({reply.reason}: {reply.detail}); resume to try again")
    drawn = []
    for choice in sorted(reply.value["choices"], key=lambda c: int(c["index"])):
        ids, logprobs = choice.get("token_ids"), (choice.get("logprobs") or {}).get("token_logprobs")
        if not ids or not logprobs or len(ids) != len(logprobs):
            raise StageError(
                "the policy's server does not return token ids with log-probabilities; rollouts need vLLM 0.31 or newer"
            )
        drawn.append(Drawn(tuple(int(i) for i in ids), tuple(float(p) for p in logprobs)))
    if len(drawn) != count:
        raise StageError(f"the policy's server returned {len(drawn)} completions of a prompt instead of {count}")
    return drawn
