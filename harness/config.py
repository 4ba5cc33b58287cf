"""The typed settings of a run: one frozen tree, in sections, closed to unknown keys.

Knobs that cannot change a row (paths, threads, batch sizes of scoring, checkpoint intervals) live in `runtime`, which
no stage identity reads. How the tree is put together from layers is in `harness/settings.py`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from harness import plugins
from harness.choice import Choice
from harness.config_decontam import DecontamConfig as DecontamConfig
from harness.config_labels import LabelsConfig
from harness.config_models import EmbedderConfig as EmbedderConfig
from harness.config_models import ModelConfig as ModelConfig
from harness.config_models import ModelsConfig, Section
from harness.config_runtime import RuntimeConfig
from harness.config_validity import ValiditySettings
from harness.errors import ConfigError
from harness.types import WorldId


class SamplingConfig(Section):
    """The sampling of a completion."""

    temperature: float = Field(1.0, ge=0)
    """Divides the logits before sampling; 0 takes the likeliest token (greedy)."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Samples from the likeliest tokens that make up this probability; 1 samples from all."""
    max_tokens: int = Field(512, ge=1)
    """Longest completion, in tokens."""


class LabConfig(Section):
    """The embedded lab: which planted world, and how much of it."""

    world: int = Field(0, ge=0)
    """Which planted world: its facts and its models follow from this number."""
    classes: Literal[6, 18] = 6
    """Classes of things in the world: eighteen have three times the rules, so that chance weighs less."""
    seeds: int = Field(192, ge=1)
    """Documents of the world, or labelled questions."""
    labelled: bool = False
    """Labelled questions in place of documents: one of each rule in turn, with its right answer."""
    test_items: int = Field(90, ge=2)
    """Test items of each column."""
    validation_items: int = Field(48, ge=1)
    """Validation items of the world."""

    @property
    def id(self) -> WorldId:
        """The world's address."""
        return WorldId(self.world, self.classes)


SUITE = "suite:"
"""What a source of seeds begins with that names a training set of the run's suite."""


class SeedsConfig(Section):
    """The documents that pairs are written from, or labelled questions that they are written after."""

    source: str | tuple[str, ...]
    """The seeds: `lab`, files, folders, globs and hub data sets, one or several, or a suite's training set
    (`suite:NAME`)."""
    text_field: str | None = None
    """The column that holds the text; by default the first known one, such as `text`."""
    question_field: str | None = None
    """The column with the question of labelled rows; by default the first known one, where a row has no text."""
    answer_field: str | None = None
    """The column with their reference answer."""
    limit: int | None = Field(None, ge=1)
    """Most documents read, from the first on; by default all."""
    domain: str = ""
    """Their subject, told to the writer; by default the suite's."""
    licence: str = ""
    """Their licence, for the data card, where the rows name none."""
    min_words: int = Field(20, ge=1)
    """Shorter documents are left out, in words."""
    max_words: int = Field(6000, ge=1)
    """Longer documents are left out, in words."""

    @property
    def sources(self) -> tuple[str, ...]:
        """`source` as it is read, in order."""
        return (self.source,) if isinstance(self.source, str) else self.source

    @property
    def training_set(self) -> str | None:
        """The suite's training set that is meant, from `suite:NAME`; None for seeds from elsewhere."""
        name = self.source if isinstance(self.source, str) else ""
        return name.removeprefix(SUITE) if name.startswith(SUITE) else None

    @property
    def tables(self) -> tuple[str, ...]:
        """The files and data sets that are read; none for the lab's seeds and for a suite's."""
        return () if self.source == "lab" or self.training_set is not None else self.sources


class GuideConfig(Section):
    """The validation items that signals may read: which, how many, and how they are chosen."""

    set: str
    """The suite's validation set that guides."""
    n: int | None = Field(None, ge=1)
    """Items taken of it; by default what the suite declares, else all."""
    strategy: Literal["random", "coverage", "capability_tree"] = "random"
    """How the items are chosen: by chance, spread over their embeddings, or along a tree of capabilities where the
    base target is weak (docs/validation-sets.md)."""
    coverage: Literal["facility_location", "k_center"] = "facility_location"
    """What `coverage` maximises, greedily: how near the chosen are to all (`facility_location`), or how near to the
    farthest (`k_center`)."""
    rendering: Literal["letter", "answer", "reasoning"] | None = None
    """How an item's answer is written out: its letter, its text, or its reasoning first; by default as the set
    declares."""
    withhold: float = Field(0.0, ge=0, le=0.9)
    """Share of the items kept from the reward and scored beside it, to see over-optimisation."""


class SynthesisConfig(Section):
    """The making of pairs: prompts, decoding, and how many pairs a document gives in each pass."""

    prompts: Literal["full", "compact"] = "full"
    """The wording: `full` has rules and JSON, `compact` worked examples and plain lines, for models of some hundred
    million parameters."""
    rubric_prompt: str | None = None
    """A file in place of the packaged prompt for rubrics ('harness prompts')."""
    generator_prompt: str | None = None
    """A file in place of the packaged prompt for pairs."""
    system_message: str = "You are a helpful assistant."
    """System turn of every pair; empty leaves it to the chat template."""
    samples_per_seed: int = Field(1, ge=1)
    """Pairs drawn of each document in a pass."""
    initial_samples: int | None = Field(None, ge=2)
    """Pairs of the untrained writer that the warm-up draws from; by default one pass."""
    writer: SamplingConfig = SamplingConfig(temperature=0.7, top_p=0.9, max_tokens=8192)
    """Decoding of the writer where it is not being trained."""
    generator: SamplingConfig = SamplingConfig(temperature=0.7, max_tokens=8192)
    """Decoding of the generator where no writer is being trained."""
    answerer: SamplingConfig = SamplingConfig(temperature=0.0, max_tokens=8192)
    """Decoding of the answerer, on routes that have one."""
    max_passes: int = Field(8, ge=1)
    """Most passes over the documents before a run says that its budget cannot be met."""
    shard_size: int = Field(256, ge=1)
    """Draws that are made, stored and resumed together; the order of random draws follows it."""
    validity: ValiditySettings = ValiditySettings()
    """Thresholds of the checks that every pair passes."""


class WarmupConfig(Section):
    """LoRA warm-up of the target on a share of the initial pairs; Adam's moments are kept for signals that use them."""

    share: float = Field(0.1, gt=0, le=1)
    """Share of the initial pairs that the target is warmed up on."""
    batch_size: int = Field(16, ge=1)
    """Pairs of an optimizer step."""
    learning_rate: float = Field(1e-5, gt=0)
    """Peak learning rate."""
    epochs: int = Field(1, ge=1)
    """Passes over the pairs."""
    schedule: Literal["linear", "constant"] = "linear"
    """How the learning rate falls: linearly to 0, or not at all."""
    warmup_ratio: float = Field(0.03, ge=0, le=1)
    """Share of the steps over which the learning rate rises."""
    lora_rank: int = Field(128, ge=1)
    """Rank of the adapter."""
    lora_alpha: int = Field(512, ge=1)
    """Scale of the adapter: its output is multiplied by alpha / rank."""
    lora_dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout on the adapter's input while training."""
    lora_modules: tuple[str, ...] = ("attention",)
    """Linear layers that get an adapter: names, or `attention` or `all-linear` for each architecture's own;
    fine-tuning an adapter uses them, too."""
    keep: Literal["last", "epochs"] = "last"
    """Checkpoints kept: the last, or one an epoch, over which signals sum by mean learning rate (LESS §2.1)."""
    adapter: tuple[str, ...] = ()
    """Folders of your own LoRA checkpoints, with their optimizer's state, in place of training one."""

    @model_validator(mode="after")
    def _one_source(self) -> WarmupConfig:
        if self.adapter and self.keep == "epochs":
            raise ValueError("keep=epochs is about our own training; with adapter, name every checkpoint's folder")
        return self


class DriverChoice(Choice):
    """The driver, which acts upon scores, and its settings (`harness drivers`)."""

    group: ClassVar[str] = plugins.DRIVERS


class RouteChoice(Choice):
    """The way from a seed to a pair, and its settings (`harness routes`)."""

    group: ClassVar[str] = plugins.ROUTES


class SignalChoice(Choice):
    """The signal of how good an item is, and its settings (`harness signals`); `none` where a driver needs none."""

    group: ClassVar[str] = plugins.SIGNALS
    optional: ClassVar[bool] = True


class SelectConfig(Section):
    """Selection after generation: a share of the valid pairs is kept, by what a signal says of them."""

    keep: float = Field(0.5, gt=0, lt=1)
    """Share of the valid pairs that is kept."""
    rule: Literal["top", "bottom", "gumbel"] = "top"
    """Which are kept: the best-scored, the worst-scored (a control), or a draw that favours the better, each with
    probability in proportion to exp(z / temperature) among those that are left (Gumbel top-k)."""
    temperature: float = Field(2.0, ge=0)
    """Under `gumbel`, in standard deviations of the pool's scores: at 0 the best are kept, the higher the more it is
    left to chance. By default QuRating's."""
    signal: SignalChoice | None = None
    """The signal that scores them; by default the run's."""


class SftConfig(Section):
    """The one fine-tuning recipe, the same for every arm of a comparison."""

    tune: Literal["full", "lora"] = "full"
    """Whether all weights are trained, or a LoRA adapter that is then merged."""
    learning_rate: float = Field(1e-5, gt=0)
    """Peak learning rate."""
    epochs: int = Field(3, ge=1)
    """Passes over the data set."""
    batch_size: int = Field(8, ge=1)
    """Pairs of an optimizer step."""
    micro_batch: int | None = Field(None, ge=1)
    """Pairs that go through the model at once; by default the whole batch. Changes memory, and results by rounding
    alone."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls."""
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Share of the steps over which the learning rate rises."""
    warmup_start: Literal["half_step", "zero"] = "half_step"
    """Rate of the first step where it rises: half of the second's, or 0 as in transformers, which leaves that
    step's pairs unlearned."""
    weight_decay: float = Field(0.1, ge=0)
    """AdamW's decay, in units of the learning rate."""
    adam_beta2: float = Field(0.95, gt=0, lt=1)
    """Decay of Adam's second moment."""
    max_length: int = Field(16384, ge=8)
    """Longer pairs are cut at the end, in tokens."""
    lora_rank: int = Field(128, ge=1)
    """Rank of the adapter, with `tune=lora`."""
    lora_alpha: int = Field(256, ge=1)
    """Scale of the adapter: its output is multiplied by alpha / rank."""


class EvalConfig(Section):
    """The tests of the fine-tuned target."""

    suite: str | None = None
    """Another suite to score a finished run on; nothing before evaluation changes."""
    apply_chat_template: bool = True
    """Whether test questions are put as chats, in the target's template."""
    limit: int | None = Field(None, ge=1)
    """Scores the first items of each column alone, and marks the record as partial."""


class RunConfig(Section):
    """Everything that defines a run."""

    method: str
    """The method: a driver and a signal with their settings ('harness methods')."""
    driver: DriverChoice
    """What is done about the signal ('harness drivers')."""
    signal: SignalChoice
    """What says how good a pair is ('harness signals')."""
    route: RouteChoice = RouteChoice.model_construct(name="rubric")
    """How a seed becomes a pair ('harness routes')."""
    target: str
    """The model that is fine-tuned, with its track ('harness targets')."""
    suite: str
    """What the target is tested on ('harness suites')."""
    preset: str | None = None
    """Settings of the method under a name."""
    scale: str | None = None
    """The target's size of run, such as `smoke` or `full`."""
    seed: int = Field(0, ge=0)
    """Seed of all random draws."""
    synth_seed: int | None = Field(None, ge=0)
    """Seed of everything up to the data set; by default `seed`."""
    sft_seed: int | None = Field(None, ge=0)
    """Seed of the final fine-tuning; by default `seed`."""
    match: Literal["samples", "sft_tokens", "teacher_tokens", "flops"] = "samples"
    """What the budget counts, and arms are equal in: pairs, tokens of fine-tuning, tokens of the generator, or
    floating-point operations."""
    budget: float = Field(gt=0)
    """The budget, in what `match` counts."""
    allow_shortfall: bool = False
    """Goes on with fewer pairs than the budget where the documents give no more."""
    writer_from: str | None = None
    """A finished run whose trained writer is started from."""
    iteration: int | None = Field(None, ge=1)
    """Which of the models that are trained one from another writes the data set: those of the run that `writer_from`
    names, else of the run's own driver; by default the last."""
    models: ModelsConfig
    """The models in their roles."""
    lab: LabConfig | None = None
    """The embedded lab, where the run lives in it."""
    seeds: SeedsConfig
    """The documents that pairs are written from."""
    guide: GuideConfig
    """The validation items that signals may read."""
    synthesis: SynthesisConfig = SynthesisConfig()
    """How pairs are made."""
    warmup: WarmupConfig = WarmupConfig()
    """LoRA warm-up of the target, for signals that read its gradients."""
    labels: LabelsConfig | None = None
    """Answers of a labelling model in place of the generator's, in the data set; by default none."""
    select: SelectConfig | None = None
    """Selection among the pairs before fine-tuning; by default none."""
    sft: SftConfig = SftConfig()
    """The final fine-tuning, the same for every arm."""
    decontam: DecontamConfig = DecontamConfig()
    """The contamination check."""
    eval: EvalConfig = EvalConfig()
    """The tests of the fine-tuned target."""
    runtime: RuntimeConfig = RuntimeConfig()
    """What changes no row: places, batches, servers, limits."""

    @property
    def synthesis_seed(self) -> int:
        """The seed of everything up to the data set."""
        return self.seed if self.synth_seed is None else self.synth_seed

    @property
    def tuning_seed(self) -> int:
        """The seed of the final fine-tuning."""
        return self.seed if self.sft_seed is None else self.sft_seed

    @property
    def route_roles(self) -> tuple[str, ...]:
        """The roles that write on this route: the one that drafts, and that which finishes, as far as there are any."""
        route: Any = self.route.plugin
        return tuple(role for role in (route.drafts, route.answers) if role)

    @property
    def model_roles(self) -> tuple[str, ...]:
        """The target, the roles with models of their own that write on this route, and the other students."""
        used = [*self.route_roles, *(["labeller"] if self.labels is not None else [])]
        return (
            "target",
            *(role for role in used if getattr(self.models, role) is not None),
            *self.models.student_roles,
        )

    def for_student(self, role: str) -> RunConfig:
        """The settings under which a student is fine-tuned and tested: the run's, with it in the target's place."""
        own = self.models.of(role)
        sft = self.sft.model_copy(update={"max_length": min(self.sft.max_length, own.max_length)})
        return self.model_copy(update={"models": self.models.model_copy(update={"target": own}), "sft": sft})

    @property
    def drafting_role(self) -> str:
        """The role whose model drafts on this route, which a learner trains.

        Raises `ConfigError` where none does, since the seeds are the pairs.
        """
        if not self.route_roles:
            raise ConfigError(
                f"driver '{self.driver.name}' needs a model that drafts, and on route '{self.route.name}' none does, "
                "since the seeds are the pairs; take another --route, or a driver that trains nothing"
            )
        return self.route_roles[0]

    @property
    def drafter(self) -> ModelConfig:
        """The model of that role. Raises as it does."""
        return self.models.of(self.drafting_role)
