"""The connection to an Elasticsearch server: who it is, how to be let in, and what to say when it refuses.

Address and credentials come from the environment and from nowhere else, so that no file, log or report holds them.
Every failure becomes one of the project's errors, which says in a line what to do; a request that failed for a
passing reason (the server restarts, is overloaded, or is reached through a proxy that just lost it) is sent again
with growing pauses. The client's own retries are off: they come without a pause, and a node that restarts needs
seconds. What this gives up: several addresses of one cluster, and cloud ids.
"""

from __future__ import annotations

import logging
import re
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from harness.errors import ConfigError, DiskFullError, HarnessError, PrerequisiteError, StageError

T = TypeVar("T")

URL = "HARNESS_ES_URL"
API_KEY = "HARNESS_ES_API_KEY"
USERNAME = "HARNESS_ES_USERNAME"
PASSWORD = "HARNESS_ES_PASSWORD"
CA = "HARNESS_ES_CA"

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt: long enough for a node to restart (4 s), short enough to tell of a dead one."""
TIMEOUT = 120.0
"""Seconds that one request may take; a batch of phrases on a cold index takes a few."""

_ANSWER = ("status", "error", "timed_out", "_shards.failed", "hits.hits.sort")
_PASSING = frozenset({429, 502, 503, 504})
_UNREADABLE = (AttributeError, KeyError, TypeError, ValueError)  # what taking an answer apart ends with
_DISK = ("flood-stage", "flood_stage", "disk usage exceeded", "read-only-allow-delete", "No space left on device")


@dataclass(frozen=True, slots=True)
class ElasticServer:
    """The address of the server and the way to be let in: by API key, by user name and password, or freely."""

    url: str
    api_key: str | None = field(default=None, repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> ElasticServer:
        """Read `HARNESS_ES_URL` and, where they are set, credentials and CA file. Raises `ConfigError`."""
        names = (URL, API_KEY, USERNAME, PASSWORD, CA)
        url, api_key, username, password, ca = (environment.get(name) or None for name in names)
        api_key = api_key.strip() or None if api_key is not None else None
        if url is None:
            raise ConfigError(
                f"{URL} is not set; let it name the Elasticsearch server, such as http://localhost:9200, "
                "or use the embedded backend, which needs none"
            )
        _check_url(url)
        if api_key is not None and (username is not None or password is not None):
            raise ConfigError(f"{API_KEY} and {USERNAME} are both set; unset one of them")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ConfigError(f"{API_KEY} holds characters that no API key has; copy it again")
        if (username is None) != (password is None):
            raise ConfigError(f"{USERNAME} and {PASSWORD} go together; one of them is not set")
        if ca is not None:
            _check_ca(ca)
        return cls(url.rstrip("/"), api_key, username, password, Path(ca) if ca is not None else None)

    @property
    def credentials(self) -> str:
        """The variables that hold the credentials in use, for messages; empty where there are none."""
        if self.api_key is not None:
            return API_KEY
        return f"{USERNAME} and {PASSWORD}" if self.username is not None else ""


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port is not None
    except ValueError:
        fine = False
    if not fine:
        # The value may hold a password, so it is not repeated.
        raise ConfigError(f"{URL} is no address; write scheme, host and port, such as https://es.example.org:9200")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"{URL} holds credentials, and addresses appear in reports; use {USERNAME} and {PASSWORD}")


def _check_ca(ca: str) -> None:
    if not Path(ca).is_file():
        raise ConfigError(f"{CA} names {ca}, which is no file")
    try:
        ssl.create_default_context(cafile=ca)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError(f"{CA} names {ca}, which holds no PEM certificate ({error})") from None


class Client:
    """The official client with our retries and errors. `api` is the client itself; call it inside `call`."""

    def __init__(self, server: ElasticServer, *, pauses: tuple[float, ...] = PAUSES, timeout: float = TIMEOUT) -> None:
        """Connect and ask for the version. Raises `PrerequisiteError` where nobody answers or lets us in."""
        try:
            import elasticsearch
        except ImportError:
            raise PrerequisiteError(
                "the elasticsearch backend needs the package elasticsearch; pip install 'harness[elasticsearch]'"
            ) from None
        # It warns of every failed attempt; what has to be said is in the error.
        logging.getLogger("elastic_transport").setLevel(logging.ERROR)
        self.server = server
        self._pauses = pauses
        self._timeout = timeout
        options: dict[str, Any] = {"request_timeout": timeout, "max_retries": 0, "retry_on_status": ()}
        if server.api_key is not None:
            options["api_key"] = server.api_key
        if server.username is not None:
            # Encoded here: given the two, the client refuses what is not ASCII.
            options["basic_auth"] = b64encode(f"{server.username}:{server.password}".encode()).decode()
        if server.ca is not None:
            options["ca_certs"] = str(server.ca)
        self.api = elasticsearch.Elasticsearch(server.url, **options)
        self.version = self._greet()

    def _greet(self) -> str:
        try:
            version = str(self.api.info()["version"]["number"])
        except Exception as error:
            raise self._explained(error, "connecting", greeting=True) from error
        if int(version.split(".")[0]) < 8:
            raise PrerequisiteError(f"{self.server.url} is Elasticsearch {version}; versions 8 and 9 are supported")
        return version

    def call(self, doing: str, request: Callable[[], T]) -> T:
        """`request()`, repeated while it fails for a passing reason. `doing` completes "while …" in an error."""
        for pause in (*self._pauses, None):
            try:
                return request()
            except HarnessError:
                raise
            except Exception as error:
                if pause is None or not _passing(error):
                    raise self._explained(error, doing) from error
                time.sleep(pause)
        raise AssertionError("unreachable")

    def msearch(self, doing: str, index: str, bodies: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        """The hits of several searches in one request, in order; of a hit only `sort` is fetched.

        A search that failed, timed out or missed a part of the index fails the whole request: an answer that is
        not complete is none.
        """
        searches: list[dict[str, Any]] = []
        for body in bodies:
            searches += [{"allow_partial_search_results": False}, body]
        wanted = ",".join(f"responses.{part}" for part in _ANSWER)

        def request() -> list[list[dict[str, Any]]]:
            body = self.api.msearch(index=index, searches=searches, filter_path=wanted).body
            answers: list[dict[str, Any]] = body.get("responses", [])
            if len(answers) != len(bodies):
                raise StageError(f"{self.server.url} gave {len(answers)} answers to {len(bodies)} searches")
            for answer in answers:
                if "error" in answer:
                    raise SearchFailed(int(answer.get("status", 500)), answer["error"])
                if answer.get("timed_out") or answer.get("_shards", {}).get("failed"):
                    raise SearchFailed(503, {"reason": "the answer does not cover the whole index"})
            return [answer.get("hits", {}).get("hits", []) for answer in answers]

        return self.call(doing, request)

    def _explained(self, error: Exception, doing: str, *, greeting: bool = False) -> HarnessError:
        return explain(error, self.server, doing, greeting=greeting, timeout=self._timeout)

    def close(self) -> None:
        """Close the connections."""
        self.api.close()


class SearchFailed(Exception):
    """One search of several failed: its HTTP status and the server's error."""

    def __init__(self, status: int, error: Mapping[str, Any]) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.error = error


def _status(error: Exception) -> int | None:
    if isinstance(error, SearchFailed):
        return error.status
    meta = getattr(error, "meta", None)
    return int(meta.status) if meta is not None else None


def _passing(error: Exception) -> bool:
    """Whether the same request may succeed in a moment."""
    import elasticsearch

    if isinstance(error, elasticsearch.SSLError):
        return False
    if isinstance(error, elasticsearch.ConnectionError | elasticsearch.ConnectionTimeout):
        return True
    return _status(error) in _PASSING and not _disk_is_full(_cause(error)[1])


def _cause(error: Exception) -> tuple[str, str]:
    """Type and reason of a refused request, the reason on one line and of bounded length."""
    body = error.error if isinstance(error, SearchFailed) else getattr(error, "body", None)
    if isinstance(body, Mapping) and isinstance(body.get("error"), Mapping):
        body = body["error"]
    kind, reason = "", str(error)
    if isinstance(body, Mapping):
        roots = body.get("root_cause") or [body]
        kind = str(body.get("type") or roots[0].get("type", ""))
        reason = str(roots[0].get("reason") or body.get("reason") or body)
    elif body:
        reason = re.sub(r"<[^>]*>", " ", str(body))  # a proxy answers with a page
    return kind, " ".join(reason.split())[:300]


def explain(error: Exception, server: ElasticServer, doing: str, *, greeting: bool, timeout: float) -> HarnessError:
    """The message to the user about a failed request; `greeting` for the first one, where nothing has worked yet."""
    import elasticsearch

    where = f"Elasticsearch at {server.url}"
    if isinstance(error, elasticsearch.SSLError):
        return _explain_tls(error, server)
    if isinstance(error, elasticsearch.ConnectionTimeout):
        return StageError(f"{where} did not answer within {timeout:.0f} s while {doing}; run again to go on")
    if isinstance(error, elasticsearch.ConnectionError):
        reason = _reason(error)
        if greeting:
            return PrerequisiteError(
                f"nothing answers at {server.url} ({reason}); start Elasticsearch there, correct {URL}, "
                "or use the embedded backend"
            )
        return StageError(
            f"{where} stopped answering while {doing} ({reason}); start it and run again: finished work is kept"
        )
    if isinstance(error, elasticsearch.UnsupportedProductError):
        return PrerequisiteError(f"what answers at {server.url} is not Elasticsearch 8 or 9; correct {URL}")
    if isinstance(error, elasticsearch.ApiError | SearchFailed):
        return _explain_status(error, server, doing)
    if isinstance(error, (elasticsearch.SerializationError, *_UNREADABLE)):
        return StageError(f"{where} gave an answer that cannot be read while {doing}; is a proxy in between?")
    raise error


def _disk_is_full(reason: str) -> bool:
    """Servers answer a write to a full disk with 429 or 403, like what passes and what is forbidden."""
    return any(mark in reason for mark in _DISK)


def _reason(error: Any) -> str:
    """The error that a connection failed with, on one line; the client has it as a cause or in its message."""
    return " ".join(str(error.errors[0] if error.errors else error.message).split())[:300]


def _explain_tls(error: Exception, server: ElasticServer) -> HarnessError:
    reason = _reason(error)
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        detail = reason.split("certificate verify failed: ")[-1].split(" (_ssl")[0]
        return PrerequisiteError(
            f"the certificate of {server.url} is not trusted ({detail}); let {CA} name the PEM file of the authority "
            "that signed it"
        )
    return PrerequisiteError(f"{server.url} does not speak TLS as expected ({reason}); is it http://?")


def _explain_status(error: Exception, server: ElasticServer, doing: str) -> HarnessError:
    """By HTTP status; the server's own words where they help."""
    where = f"Elasticsearch at {server.url}"
    status, (kind, reason) = _status(error), _cause(error)
    if status == 401:
        if server.credentials:
            return PrerequisiteError(f"{where} refuses the credentials (HTTP 401); check {server.credentials}")
        return PrerequisiteError(f"{where} wants credentials (HTTP 401); set {API_KEY}, or {USERNAME} and {PASSWORD}")
    if _disk_is_full(reason):
        return DiskFullError(f"the disk of {where} is full; free some space there, then run again ({reason})")
    if status == 403:
        return PrerequisiteError(
            f"{where} denies what is needed while {doing} (HTTP 403: {reason}); the account needs the privileges "
            "create_index, manage, read and write on harness-decontam-*"
        )
    if kind == "media_type_header_exception" or status == 406:
        return PrerequisiteError(
            f"{where} is older than the installed client supports ({reason}); "
            "pip install 'elasticsearch>=8.19,<9', which talks to servers 8 and 9"
        )
    if status == 404 and kind in ("index_not_found_exception", ""):
        return StageError(f"the index on {where} was deleted while {doing} ({reason}); run again: it is built anew")
    if status in _PASSING:
        return StageError(f"{where} is overloaded or restarting (HTTP {status} while {doing}: {reason}); run again")
    return StageError(f"{where} refused a request while {doing} (HTTP {status} {kind}: {reason})")
