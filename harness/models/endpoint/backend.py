"""Generation by a server that speaks the OpenAI chat API: a hosted service, or a vLLM server on this machine.

A request carries its own seed, derived from the call's seed and its place, so that a server that heeds seeds gives
equal texts to equal calls, and so that two draws of one prompt are two entries of the cache. A structured request that
comes back malformed is repaired once, as a second, billed call that shows the model its text and the fault; what is
malformed then stays as it is, for the parser to reject with the raw text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.models.backend import Completion, PromptRequest, Sampling
from harness.models.decoding import SERVED
from harness.models.endpoint.bodies import text_of
from harness.models.endpoint.client import Endpoint, Reply, Request
from harness.training.chat import prompt_ids
from harness.training.template import traits, turns_for_server
from harness.types import Message, chat, derive_seed

REPAIR = "That is not a valid reply: {fault}. Reply again with one JSON object of the required form and nothing else."


@dataclass(frozen=True, slots=True)
class Served:
    """The known facts of a served model. `newer_limit` is OpenAI's newer name for the limit on completion tokens.

    `takes_stops`: it takes token ids to stop at, and decoding settings beyond OpenAI's, as vLLM does.
    """

    name: str
    flops_per_token: float
    max_length: int
    structured: bool = False
    structured_chars: int | None = None
    newer_limit: bool = False
    accept_length: bool = False
    takes_stops: bool = False


class EndpointBackend:
    """`Backend` over an endpoint that is opened at the first call, since a local server takes its time to start.

    `connect` gives the endpoint and the name that the model has there.
    """

    def __init__(self, served: Served, connect: Callable[[], tuple[Endpoint, str]]) -> None:
        self._served, self._connect = served, connect
        self._opened: tuple[Endpoint, str] | None = None

    @property
    def name(self) -> str:
        """The model's name, as recorded with every sample."""
        return self._served.name

    @property
    def flops_per_token(self) -> float:
        """2 x active parameters where the architecture is known; 0 where it is not."""
        return self._served.flops_per_token

    def generate(self, requests: Sequence[PromptRequest], sampling: Sampling, seed: int) -> list[Completion]:
        """Complete every request, all of them in flight together as far as the server allows."""
        if not requests:
            return []
        if self._opened is None:
            self._opened = self._connect()
        endpoint, model = self._opened
        bodies = [self._body(model, r, sampling, derive_seed(seed, i)) for i, r in enumerate(requests)]
        completions = [self._completion(reply) for reply in endpoint.send([_request(body) for body in bodies])]
        self._repair(endpoint, requests, bodies, completions)
        return completions

    def _repair(
        self,
        endpoint: Endpoint,
        requests: Sequence[PromptRequest],
        bodies: Sequence[dict[str, Any]],
        completions: list[Completion],
    ) -> None:
        """Ask once more for every structured answer that is complete and malformed."""
        faults = {i: self._fault(r, c) for i, (r, c) in enumerate(zip(requests, completions, strict=True))}
        broken = [i for i, fault in faults.items() if fault]
        again = []
        for i in broken:
            asked = Message("user", REPAIR.format(fault=faults[i]))
            turns = [*requests[i].messages, Message("assistant", completions[i].text), asked]
            again.append(_request({**bodies[i], "messages": chat(self._turns(turns))}))
        for i, reply in zip(broken, endpoint.send(again) if again else [], strict=True):
            completions[i] = _after_repair(completions[i], self._completion(reply))

    def _fault(self, request: PromptRequest, completion: Completion) -> str:
        if not self._served.structured or request.form is None:
            return ""
        if completion.failure or completion.finish_reason == "length":
            return ""
        # The bound on characters makes answers fit; one that is over it and complete is worth no second bill.
        return request.form.fault(completion.text, None)

    def _completion(self, reply: Reply) -> Completion:
        text, finish, failure = reply.detail, "error", reply.reason
        if not reply.reason:
            choice = reply.value["choices"][0]
            text, finish = text_of(choice) or "", str(choice.get("finish_reason") or "unknown")
            refused = finish == "content_filter" or (finish == "length" and not self._served.accept_length)
            failure = finish if refused else ""
        return Completion(
            text=text,
            finish_reason=finish,
            prompt_tokens=0 if reply.reason else reply.prompt_tokens,
            completion_tokens=0 if reply.reason else reply.completion_tokens,
            failure=failure,
            calls=reply.calls,
            extra_prompt_tokens=reply.extra_prompt_tokens,
            extra_completion_tokens=reply.extra_completion_tokens,
        )

    def _turns(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The turns as they are sent. Without its tokenizer nothing is known of what a server reads in them."""
        return messages

    def _stops(self) -> list[int]:
        """Token ids that end an answer, where the server is to be told."""
        return []

    def _body(self, model: str, request: PromptRequest, sampling: Sampling, seed: int) -> dict[str, Any]:
        # OpenAI's own newer models refuse the older name, which is the one that every other server knows.
        limit = "max_completion_tokens" if self._served.newer_limit else "max_tokens"
        body: dict[str, Any] = {
            "model": model,
            "messages": chat(self._turns(request.messages)),
            limit: sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seed,
        }
        if stops := self._stops():
            body["stop_token_ids"] = stops
        if self._served.takes_stops:
            body |= SERVED
        if self._served.structured and request.form is not None:
            schema = request.form.schema(self._served.structured_chars)
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": request.form.name, "schema": schema, "strict": True},
            }
        return body


class CountingBackend(EndpointBackend):
    """An endpoint whose model's tokenizer is here, so that a prompt can be shortened to fit before it is sent.

    The server renders and encodes the chat. It is sent turns that its template takes, in which special tokens that are
    written out are broken by a blank, and is told of an end of turn that its model does not declare.
    """

    def __init__(
        self, served: Served, connect: Callable[[], tuple[Endpoint, str]], tokenizer: Callable[[], Any]
    ) -> None:
        super().__init__(served, connect)
        self._load = tokenizer
        self._tokenizer: Any = None

    def _known(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = self._load()
        return self._tokenizer

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Prompt tokens of a chat, generation prompt included."""
        return len(prompt_ids(self._known(), self._turns(messages)))

    def _turns(self, messages: Sequence[Message]) -> Sequence[Message]:
        return turns_for_server(self._known(), messages)

    def _stops(self) -> list[int]:
        stop = traits(self._known()).stop if self._served.takes_stops else None
        return [] if stop is None or stop == self._known().eos_token_id else [stop]

    def room(self, sampling: Sampling) -> int:
        """Most prompt tokens that leave room for the completion."""
        return self._served.max_length - sampling.max_tokens


def _request(body: dict[str, Any]) -> Request:
    limit = body.get("max_tokens", body.get("max_completion_tokens", 0))
    return Request("chat/completions", body, prompt_bound(body), limit)


def prompt_bound(body: dict[str, Any]) -> int:
    """More prompt tokens than any tokenizer makes of a request: a byte each, and the template's own."""
    texts = [str(m["content"]) for m in body["messages"]] + [str(body.get("response_format", ""))]
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) + 32 * len(body["messages"]) + 64


def _after_repair(first: Completion, second: Completion) -> Completion:
    """The repaired answer; where the repair brought nothing, the first one. Both are paid for."""
    kept, other = (first, second) if second.failure else (second, first)
    return Completion(
        text=kept.text,
        finish_reason=kept.finish_reason,
        prompt_tokens=kept.prompt_tokens,
        completion_tokens=kept.completion_tokens,
        failure=kept.failure,
        calls=first.calls + second.calls,
        extra_prompt_tokens=first.extra_prompt_tokens + second.extra_prompt_tokens + other.prompt_tokens,
        extra_completion_tokens=first.extra_completion_tokens
        + second.extra_completion_tokens
        + other.completion_tokens,
    )
