"""The signals that there are: specification and import path of each, readable without loading any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError, suggest
from methods.signals.base import Signal, SignalSpec

if TYPE_CHECKING:
    from harness.config import RunConfig


@dataclass(frozen=True, slots=True)
class SignalInfo:
    """A signal's name, one line about it, what it needs, and where its class is.

    `section` names the settings section whose fields change its scores; empty where there is none.
    """

    name: str
    summary: str
    spec: SignalSpec
    path: str
    section: str = ""


def _info(name: str, summary: str, path: str, section: str = "", **spec: Any) -> SignalInfo:
    return SignalInfo(name, summary, SignalSpec(**spec), path, section)


_BOTH = frozenset({"sample", "seed"})

SIGNALS: Mapping[str, SignalInfo] = MappingProxyType(
    {
        info.name: info
        for info in (
            _info(
                "influence",
                "Adam-aware influence of the pair on the target's validation loss (OptimSyn Eq. 1)",
                "methods.signals.influence.signal:InfluenceSignal",
                section="influence",
                range=(-1.0, 1.0),
                needs=frozenset({"warm_target"}),
                cost_class="backward",
                reads_validation=True,
            ),
            _info(
                "local_influence",
                "how far one optimizer step on the pair lowers the target's validation loss (Montessori-Instruct)",
                "methods.signals.local_influence.signal:LocalInfluenceSignal",
                section="local_influence",
                needs=frozenset({"warm_target"}),
                cost_class="backward",
                reads_validation=True,
            ),
            _info(
                "loss",
                "control: mean loss of the pair's answer under the target, warmed up or base",
                "methods.signals.loss:LossSignal",
                section="loss",
                range=(0.0, None),
                needs=frozenset({"warm_target"}),
                cost_class="forward",
            ),
            _info(
                "val_bm25",
                "control: word similarity (BM25) to the validation items",
                "methods.signals.similarity:ValBm25Signal",
                section="val_bm25",
                range=(0.0, None),
                items=_BOTH,
                reads_validation=True,
            ),
            _info(
                "val_cosine",
                "control: cosine between the embeddings of item and validation items",
                "methods.signals.similarity:ValCosineSignal",
                section="val_cosine",
                range=(-1.0, 1.0),
                needs=frozenset({"embedder"}),
                cost_class="embedding",
                items=_BOTH,
                reads_validation=True,
            ),
            _info(
                "random",
                "control: uniform noise, a hash of seed and item",
                "methods.signals.controls:RandomSignal",
                range=(0.0, 1.0),
                items=_BOTH,
            ),
            _info(
                "constant",
                "control: the same value for every item, so only validity is rewarded",
                "methods.signals.controls:ConstantSignal",
                range=(1.0, 1.0),
                items=_BOTH,
            ),
            _info(
                "length",
                "control: number of words of question and answer",
                "methods.signals.controls:LengthSignal",
                range=(0.0, None),
                items=_BOTH,
            ),
            _info(
                "oracle",
                "lab only: the planted utility of a pair; calibrates the bench, never ranked",
                "methods.signals.planted:OracleSignal",
                range=(0.0, 1.0),
                needs=frozenset({"planted"}),
                lab_only=True,
            ),
            _info(
                "anti_oracle",
                "lab only: the planted utility with its sign reversed; calibrates the bench, never ranked",
                "methods.signals.planted:AntiOracleSignal",
                range=(-1.0, 0.0),
                needs=frozenset({"planted"}),
                lab_only=True,
            ),
        )
    }
)
"""All signals by name."""


def signal_info(name: str) -> SignalInfo:
    """The signal called `name`. Raises `ConfigError` with the nearest known name."""
    if name not in SIGNALS:
        raise ConfigError(f"there is no signal '{name}'{suggest(name, SIGNALS)}")
    return SIGNALS[name]


def signal_needs(name: str, config: RunConfig) -> frozenset[str]:
    """What the signal needs under these settings: `loss` of the base target does without a warm-up."""
    needs = signal_info(name).spec.needs
    if name == "loss" and config.loss.checkpoint == "base":
        return needs - {"warm_target"} | {"target"}
    return needs


def probes_validation(name: str, config: RunConfig) -> bool:
    """Whether every single score takes a forward pass over all validation items."""
    return name == "local_influence" and config.local_influence.form == "exact"


def make_signal(name: str) -> Signal:
    """A fresh instance of the signal called `name`."""
    module, _, attribute = signal_info(name).path.partition(":")
    signal: Signal = getattr(import_module(module), attribute)()
    return signal
