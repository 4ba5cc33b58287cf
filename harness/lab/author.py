"""The lab's author: one model a world for the routes without a rubric, built where a run first asks for it.

It writes a pair about a document, a pair or a question after a labelled seed, and the answer to a question put alone.
What it asks about is left to it, uniformly over relations and question types, so that a learner has something to
choose; after a seed it mostly keeps class and relation (`KEEPS`), so that choosing seeds chooses what their children
are about. A share of the answers is false or filler, as those of the untrained rubric writer are.
"""

from __future__ import annotations

import random
from dataclasses import asdict
from pathlib import Path

from harness.cache import make_once
from harness.lab import build, corpora
from harness.lab.corpora import Example
from harness.lab.pairs import RELATION_OF, document_text, pair_json, pair_messages, random_style, spoil_pair
from harness.lab.training import LabRecipe, fixed_torch, train_in_place
from harness.lab.words import RELATIONS, Relation
from harness.lab.world import Rule, World
from harness.models.prompts import Prompt, load_prompt
from harness.types import QUESTION_TYPES, Message, chat, derive_seed, stable_hash

RECIPE = LabRecipe(steps=450, batch=32, lr=5e-3)
EXAMPLES = 16000
"""Training examples drawn."""

KEEPS = 0.85
"""Share of the pairs after a labelled seed that keep its class and relation."""

TASKS = ("direct_document", "direct_example", "question_document", "question_example", "question_answer")
"""What it is trained for, by the names of the prompts, in equal shares."""


def ensure_author(world: World, progress: build.ShareCallback | None = None, steps: float = 1.0) -> Path:
    """The folder of the world's author, built where the cache lacks it; the lab's other models come first.

    `steps` scales the training length. Raises `PrerequisiteError` where the cache folder cannot be written.
    """
    told = progress or (lambda _part, _share: None)
    build.ensure_lab(world, progress=progress, steps=steps)
    base = build.shared_folder(steps, size=world.size) / "generator-base"
    home = author_folder(world, steps)
    make_once(home, lambda folder: _build(folder, base, world, told, steps))
    return home


def author_folder(world: World, steps: float = 1.0) -> Path:
    """The folder of the world's author, which may not be there yet."""
    return build.cache_root() / f"author-{world.id}-{author_identity(world, steps)}"


def author_identity(world: World, steps: float = 1.0) -> str:
    """Hash of all that changes its weights; the wording by a sample of the examples."""
    return stable_hash(build.lab_identity(world, steps), author_examples(60, 0, world), asdict(RECIPE), EXAMPLES)


def author_examples(count: int, seed: int, world: World) -> list[Example]:
    """Chat prompts and what is to be written, the tasks in turn."""
    rng = random.Random(seed)
    prompts = {task: load_prompt(corpora.PROMPTS / f"{task}.txt") for task in TASKS}
    return [_example(prompts, TASKS[i % len(TASKS)], world, rng) for i in range(count)]


def _example(prompts: dict[str, Prompt], task: str, world: World, rng: random.Random) -> Example:
    rule = _rule(world, rng)
    about_document = task.endswith("document")
    name = rng.choice(world.names("pretraining", rule[0]))
    asked = rule
    variables: dict[str, str]
    if about_document:
        values = {r.key: world.rules[rule[0], r.key] for r in RELATIONS}
        variables = {"document": document_text(name, rule[0], values, rng)}
    else:
        # The seed is about one thing; what is written after it is about another.
        seed = _pair(name, rule, world, rng, true=True)
        variables = {"question": seed[1].content, "answer": seed[2].content}
        asked = rule if rng.random() < KEEPS else _rule(world, rng)
        name = rng.choice(world.names("pretraining", asked[0]))
    prompt = prompts[task]
    if task == "question_answer":
        question = _pair(name, asked, world, rng)
        variables = {"question": question[1].content}
        return chat(prompt.render(variables)), question[2].content
    pair = _pair(name, asked, world, rng)
    written = pair[1].content
    if task.startswith("direct"):
        written = spoil_pair(pair, rng) if rng.random() < corpora.SPOILED_PAIRS else pair_json(pair)
    return chat(prompt.render(variables)), written


def _rule(world: World, rng: random.Random) -> Rule:
    return rng.choice(world.classes), rng.choice(RELATIONS).key


def _pair(name: str, rule: Rule, world: World, rng: random.Random, *, true: bool = False) -> tuple[Message, ...]:
    """A pair about a rule in any manner; unless it is to be `true`, a share of the answers is false or filler."""
    cls, key = rule
    relation: Relation = RELATION_OF[key]
    value: str | None = world.rules[cls, key]
    style = "exact" if true else random_style(rng)
    if style == "plausible":
        value = rng.choice([v for v in relation.values if v != value])
    elif style == "polished":
        value = None
    return pair_messages(name, cls, relation, rng.choice(QUESTION_TYPES), value, rng)


def _build(folder: Path, base: Path, world: World, report: build.ShareCallback, steps: float) -> None:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    with fixed_torch(derive_seed("lab author", world.id.key)):
        model = Qwen3ForCausalLM.from_pretrained(base)
        seed = derive_seed("author data", world.id.key)
        length = steps * world.size.length["author"]
        examples = author_examples(build.scaled(EXAMPLES, length), seed, world)
        recipe = build.shorter(RECIPE, length)
        encoded = build.encode_examples(tokenizer, examples)
        train_in_place(model, encoded, recipe, seed + build.disturbance(), lambda share: report("author", share))
        build.save(model, tokenizer, folder)
