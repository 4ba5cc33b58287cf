"""Settings of served models: what is refused, what is never printed, and what makes a run another run."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import ConfigError
from harness.resolve.layers import resolve_run
from harness.runtime.run import identity_settings, run_name
from harness.settings import Resolved

KEY = "sk-planted-0123456789abcdef"


def resolved(**sets: Any) -> Resolved:
    dotted = {key.replace("__", "."): value for key, value in sets.items()}
    return resolve_run(method="optimsyn", target="nano", sets=dotted)


def served(role: str = "generator", url: str = "http://127.0.0.1:8000/v1", **more: Any) -> dict[str, Any]:
    given = {"id": "m", "backend": "openai", "base_url": url, **more}
    return {f"models__{role}__{key}": value for key, value in given.items()}


@pytest.mark.parametrize(
    "url", ["https://user:pw-secret@host/v1", "https://host/v1?key=pw-secret", "ftp://host", "host/v1"]
)
def test_a_url_holds_no_secret_and_is_one(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolved(**served(url=url))
    assert "models.generator.base_url" in str(error.value) and "pw-secret" not in str(error.value)


def test_a_key_in_place_of_a_variables_name_is_refused_and_not_printed() -> None:
    with pytest.raises(ConfigError) as error:
        resolved(**served(key_env=KEY))
    assert "name of an environment variable" in str(error.value) and KEY not in str(error.value)


def test_an_endpoint_needs_an_address_and_transformers_takes_none() -> None:
    with pytest.raises(ConfigError, match="needs base_url"):
        resolved(models__generator__backend="openai", models__generator__id="m")
    with pytest.raises(ConfigError, match="are for servers"):
        resolved(models__generator__structured=True)


def test_the_target_is_trained_here() -> None:
    with pytest.raises(ConfigError, match="must be transformers"):
        resolved(**served("target"))


def test_a_limit_in_dollars_needs_prices() -> None:
    with pytest.raises(ConfigError, match=r"has no price.*models\.generator\.price\.input"):
        resolved(**served(), runtime__max_usd=5)
    resolved(**served(price={"input": 0, "output": 0}), runtime__max_usd=5)
    resolved(**served(), runtime__max_tokens=5)
    with pytest.raises(ConfigError, match="has no price"):
        resolved(**served(url="https://gpu.host/v1", backend="vllm"), runtime__max_usd=5)
    resolved(**served(backend="vllm"), runtime__max_usd=5)


@pytest.mark.parametrize("name", [None, ""])
def test_a_model_has_a_name(name: str | None) -> None:
    with pytest.raises(ConfigError, match=r"models\.target\.id"):
        resolved(models__target__id=name)


def test_which_host_is_another_machine() -> None:
    assert resolved(**served()).config.models.generator.remote_host is None
    assert resolved(**served(url="https://api.host/v1")).config.models.generator.remote_host == "api.host"


def test_a_local_servers_port_does_not_make_another_run() -> None:
    one, two = (resolved(**served(url=f"http://localhost:{port}/v1")).config for port in (8000, 8001))
    assert run_name(one) == run_name(two) and identity_settings(one) == identity_settings(two)
    there, elsewhere = (resolved(**served(url=f"https://{host}/v1")).config for host in ("a.host", "b.host"))
    assert run_name(there) != run_name(elsewhere)
