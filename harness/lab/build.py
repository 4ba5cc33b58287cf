"""Building and caching the lab's models: one writer for all worlds, a generator and a target per world.

The models are built on the user's machine and cached, not shipped: the build takes about as long as a run, and a
world is a number, so any world can be built. A folder is named by a hash of everything that changes its weights. It
gives up equal weights across machines: two processors may round differently.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.cache import cache_home, make_once
from harness.errors import ConfigError
from harness.lab import corpora, words
from harness.lab.sizes import SIZES, Size
from harness.lab.tokenizer import SCAFFOLDING, TEMPLATE, build_tokenizer, encode_chats
from harness.lab.training import Encoded, LabRecipe, Shape, fixed_torch, new_model, train_in_place
from harness.lab.world import World
from harness.types import SMALL_WORLD, Json, derive_seed, stable_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

LAB_VERSION = 1
"""Raised by hand with every change to code that changes the weights and is not among the hashed constants."""

DISTURBANCE = "HARNESS_LAB_DISTURB"
"""Environment variable for tests: a whole number that is added to the training seeds of all lab models.

The models are as good as before and write other texts, as they do on another processor. A test that holds for one
number and not for another has taken what these models happen to write for a property of the program.
"""

SMALLEST = SIZES[SMALL_WORLD]

ShareCallback = Callable[[str, float], None]
"""Called with a part's name and the share of it that is done, 0 to 1."""

WRITER = Shape(hidden=64, layers=2, heads=4, inner=192)
GENERATOR = Shape(hidden=64, layers=2, heads=4, inner=192)
TARGET = Shape(hidden=64, layers=2, heads=4, inner=192)

WRITER_RECIPE = LabRecipe(steps=320, batch=32, lr=5e-3)
BASE_RECIPE = LabRecipe(steps=400, batch=32, lr=5e-3)
WORLD_RECIPE = LabRecipe(steps=320, batch=32, lr=5e-3)
TARGET_RECIPE = LabRecipe(steps=300, batch=48, lr=5e-3)

EXAMPLES = {"writer": 8000, "base": 10000, "generator": 8000, "target": 8000}
"""Training examples drawn for each part."""


@dataclass(frozen=True, slots=True)
class LabModels:
    """Folders that `from_pretrained` loads (weights, tokenizer, chat template, generation config)."""

    writer: Path
    generator: Path
    target: Path
    identity: str


def cache_root(cache_dir: Path | None = None) -> Path:
    """The folder that holds built worlds, in the cache of the machine or in `cache_dir`."""
    return cache_home(cache_dir) / "lab"


def disturbance() -> int:
    """The value of `HARNESS_LAB_DISTURB`; 0 where it is not set. Raises `ConfigError` where it is no whole number."""
    value = os.environ.get(DISTURBANCE) or "0"
    if not value.isdecimal():
        raise ConfigError(f"{DISTURBANCE} is '{value}'; set it to a whole number from 0, or unset it")
    return int(value)


def lab_identity(world: World, steps: float = 1.0) -> str:
    """Hash of all that changes the weights of a world's models."""
    own = [asdict(x) for x in (TARGET, WORLD_RECIPE, TARGET_RECIPE)]
    return stable_hash(_shared_identity(steps, disturbance(), world.class_count), world.id.key, own)


def shared_folder(steps: float = 1.0, cache_dir: Path | None = None, size: Size = SMALLEST) -> Path:
    """The folder where the models that all worlds of a size share lie, or will lie."""
    return cache_root(cache_dir) / f"shared-{_shared_identity(steps, disturbance(), len(size.classes))}"


@lru_cache(maxsize=8)
def _shared_identity(steps: float, disturbed: int, classes: int) -> str:
    """Hash of all that changes the shared models, and of how long a world's own are trained.

    The wording is hashed by what it yields: a sample of the examples, so that no change of a text is missed.
    """
    size = SIZES[classes]
    sample = [*corpora.writer_examples(60, 0, size.classes), *corpora.generator_examples(60, 0, None, size.classes)]
    shapes = [asdict(x) for x in (WRITER, GENERATOR, WRITER_RECIPE, BASE_RECIPE)]
    exams = [relation.tests for relation in words.RELATIONS]
    own: list[Json] = [disturbed] if disturbed else []
    # What the smallest worlds' models hash is what it was before there were others.
    own += [[list(size.classes), list(size.background), dict(size.length)]] if size is not SMALLEST else []
    return stable_hash("lab", LAB_VERSION, steps, sample, exams, shapes, EXAMPLES, TEMPLATE, SCAFFOLDING, *own)


def ensure_lab(
    world: World, cache_dir: Path | None = None, progress: ShareCallback | None = None, steps: float = 1.0
) -> LabModels:
    """The models of a world, built where the cache lacks them.

    That takes one to two minutes for the first of the smaller worlds, and about twice as long for a larger one. `steps`
    scales every training length; below 1 the models are of no use but load and run, for quick tests. Raises
    `PrerequisiteError` where the cache folder cannot be written.
    """
    report = progress or (lambda _part, _share: None)
    root = cache_root(cache_dir)
    shared = shared_folder(steps, cache_dir, world.size)
    identity = lab_identity(world, steps)
    home = root / f"world-{world.id}-{identity}"
    make_once(shared, lambda folder: _build_shared(folder, report, steps, world.size))
    make_once(home, lambda folder: _build_world(folder, shared, world, report, steps))
    return LabModels(shared / "writer", home / "generator", home / "target", identity)


def _build_shared(folder: Path, report: ShareCallback, steps: float, size: Size) -> None:
    tokenizer, classes = build_tokenizer(size), size.classes
    lengths = {part: steps * own for part, own in size.length.items()}
    with fixed_torch(derive_seed("lab writer")):
        writer = new_model(tokenizer, WRITER)
        count = scaled(EXAMPLES["writer"], lengths["writer"])
        examples = corpora.writer_examples(count, derive_seed("writer data"), classes)
        recipe = shorter(WRITER_RECIPE, lengths["writer"])
        train_in_place(
            writer,
            encode_examples(tokenizer, examples),
            recipe,
            1 + disturbance(),
            lambda share: report("writer", share),
        )
        save(writer, tokenizer, folder / "writer")
    with fixed_torch(derive_seed("lab base generator")):
        base = new_model(tokenizer, GENERATOR)
        count = scaled(EXAMPLES["base"], lengths["base"])
        examples = corpora.generator_examples(count, derive_seed("base data"), None, classes)
        recipe = shorter(BASE_RECIPE, lengths["base"])
        seed = 2 + disturbance()
        train_in_place(
            base, encode_examples(tokenizer, examples), recipe, seed, lambda share: report("base generator", share)
        )
        save(base, tokenizer, folder / "generator-base")


def _build_world(folder: Path, shared: Path, world: World, report: ShareCallback, steps: float) -> None:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

    tokenizer = PreTrainedTokenizerFast.from_pretrained(shared / "generator-base")
    with fixed_torch(derive_seed("lab generator", world.id.key)):
        model = Qwen3ForCausalLM.from_pretrained(shared / "generator-base")
        seed = derive_seed("generator data", world.id.key)
        length = steps * world.size.length["generator"]
        examples = corpora.generator_examples(scaled(EXAMPLES["generator"], length), seed, world)
        recipe, seed = shorter(WORLD_RECIPE, length), seed + disturbance()
        train_in_place(
            model, encode_examples(tokenizer, examples), recipe, seed, lambda share: report("generator", share)
        )
        save(model, tokenizer, folder / "generator")
    with fixed_torch(derive_seed("lab target", world.id.key)):
        model = new_model(tokenizer, TARGET)
        seed = derive_seed("target data", world.id.key)
        length = steps * world.size.length["target"]
        examples = corpora.target_examples(scaled(EXAMPLES["target"], length), seed, world)
        recipe, seed = shorter(TARGET_RECIPE, length), seed + disturbance()
        train_in_place(model, encode_examples(tokenizer, examples), recipe, seed, lambda share: report("target", share))
        save(model, tokenizer, folder / "target")


def encode_examples(tokenizer: PreTrainedTokenizerFast, examples: list[corpora.Example]) -> Encoded:
    """Token ids of prompts and answers."""
    return encode_chats(tokenizer, [prompt for prompt, _ in examples], [answer for _, answer in examples])


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a model with its tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def scaled(count: int, steps: float) -> int:
    """A number of examples for trainings of `steps` times their length."""
    return max(32, round(count * steps))


def shorter(recipe: LabRecipe, steps: float) -> LabRecipe:
    """A recipe of `steps` times its length."""
    return LabRecipe(max(2, round(recipe.steps * steps)), recipe.batch, recipe.lr, recipe.weight_decay)
