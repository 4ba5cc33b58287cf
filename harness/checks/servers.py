"""Checks of servers and of the hub: each is asked once, with a time limit, where the user names it or says so."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from harness.checks.findings import Finding
from harness.config_models import LOOPBACK
from harness.resolve import machine

if TYPE_CHECKING:
    from harness.config import RunConfig

SECONDS = 5.0
"""Limit of one question to a server."""

HUB = "https://huggingface.co"


def servers(config: RunConfig) -> list[Finding]:
    """Whether the servers that the settings name answer. A refusal for want of a key is an answer."""
    found = []
    for role in config.model_roles:
        url = config.models.of(role).base_url
        if url:
            found.append(_ask(f"{role}'s server", f"{url}/models", "start it, or correct its base_url"))
    if url := config.models.embedder.url:
        found.append(_ask("embedder's server", f"{url.rstrip('/')}/models", "start it, or correct models.embedder.url"))
    return found or [Finding("servers", "servers", "the settings name none")]


def hub() -> list[Finding]:
    """Whether the Hugging Face hub answers."""
    if machine.hub_offline():
        return [Finding("servers", "hub", "not asked: HF_HUB_OFFLINE is set")]
    url = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    fix = "download models elsewhere into the hub cache, and set HF_HUB_OFFLINE=1"
    return [_ask("hub", f"{url}/api/whoami-v2", fix)]


def _ask(name: str, url: str, fix: str) -> Finding:
    shown = url.split("?")[0]
    # As in a run, a server on this machine is not asked through a proxy.
    own = urlsplit(url).hostname in LOOPBACK
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if own else []))
    try:
        with opener.open(url, timeout=SECONDS) as answer:
            return Finding("servers", name, f"{shown} answers ({answer.status})")
    except urllib.error.HTTPError as error:
        if error.code < 500:
            return Finding("servers", name, f"{shown} answers ({error.code})")
        return Finding("servers", name, f"{shown} answers {error.code}", "look into its log")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Finding("servers", name, f"{shown} does not answer within {SECONDS:.0f} s ({reason})", fix)
