"""The outputs that a finished run leaves beside its stages: record, items, data set with its card, model, plots."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from evals.data import load_items
from harness.models.dequantise import copies
from harness.record import ColumnScore, RunRecord, StageCost, StageCount, StudentResult
from harness.resolve.assemble import Assembly
from harness.resolve.provenance import note_model
from harness.runtime.clean import with_clean_scores
from harness.runtime.retention import forgetting, retention
from harness.runtime.rounds import round_results, write_seeds
from harness.shards import Summary, read_records, read_shards, write_table, write_text
from harness.stage import WEIGHTS, Kind, Stage, stage_folder
from harness.synthesis.route import reference_of
from harness.types import Sample, Seed, chat
from results.contamination import contamination_lines
from results.runs import BASE, MODEL, TUNED, student_items

MODELS: tuple[tuple[Kind, str], ...] = (("base_answers", BASE), ("tuned_answers", TUNED))
"""Whose answers `items.parquet` has: the kind of stage that leaves them, and what its rows call the model."""


STUDENT_MODELS: Mapping[Kind, str] = MappingProxyType({"student_base_answers": BASE, "student_tuned_answers": TUNED})
"""The same of other students, whose rows have their role in the model's name, too."""


def write_outputs(assembly: Assembly, store: Path, folder: Path, summaries: Mapping[str, Summary]) -> RunRecord:
    """Write everything; the record comes last, since its presence says that the run is complete."""
    samples = read_records(stage_folder(store, assembly.only("dataset")), Sample)
    seeds = read_records(stage_folder(store, assembly.only("seeds")), Seed)
    record = _record(assembly, store, folder, summaries, samples)
    lines = [json.dumps({"messages": chat(s.messages), "id": s.id}, ensure_ascii=False) for s in samples]
    write_text(folder / "dataset.jsonl", "\n".join(lines) + "\n")
    write_text(folder / "README.md", _card(assembly, record, samples, seeds, summaries))
    _write_items(store, folder, assembly)
    write_seeds(assembly, store, folder)
    tuned = stage_folder(store, assembly.only("model"))
    note_model(tuned / MODEL, tuned, folder.name, assembly.plan.config, folder / "dataset.jsonl")
    _link_model(folder, tuned / MODEL)
    if policy := assembly.last("policy"):
        from results.learning import NEEDED, plot_learning

        rows = read_shards(stage_folder(store, policy))
        # A policy may be trained on something else than rollouts.
        if rows and rows[0].keys() >= NEEDED:
            plot_learning(rows, policy.signal, folder / "learning.png")
    record.write(folder / "record.json")
    return record


def _columns(assembly: Assembly, summary: Summary) -> list[ColumnScore]:
    guided = set(assembly.guided_columns)
    return [
        ColumnScore(
            column=c["column"],
            metric=c["metric"],
            n=c["n"],
            score=c["score"],
            stderr=c["stderr"],
            status=c["status"],
            reason=c["reason"],
            guided=c["column"] in guided,
            probability=c.get("probability"),
        )
        for c in summary.notes["columns"]
    ]


def _scores(assembly: Assembly, store: Path, summaries: Mapping[str, Summary], stage: Stage) -> list[ColumnScore]:
    """A model's columns, with their scores on clean items where the data were checked against these very tests."""
    columns = _columns(assembly, summaries[stage.identity])
    if assembly.plan.other_tests is not None:
        return columns
    touched = _notes(assembly, summaries, "gated")["touched"]
    return with_clean_scores(columns, read_shards(stage_folder(store, stage)), touched)


def _students(assembly: Assembly, store: Path, summaries: Mapping[str, Summary]) -> list[StudentResult]:
    """The other students of the data set, in the order of the settings."""
    models, found = assembly.plan.config.models, []
    for role in models.student_roles:
        own = {stage.kind: stage for stage in assembly.stages if stage.student == role}
        found.append(
            StudentResult(
                role=role,
                model=models.of(role).id,
                columns=_scores(assembly, store, summaries, own["student_tuned_answers"]),
                base_columns=_scores(assembly, store, summaries, own["student_base_answers"]),
                stage=own["student_model"].folder_name,
            )
        )
    return found


def _notes(assembly: Assembly, summaries: Mapping[str, Summary], kind: Kind) -> Mapping[str, Any]:
    """The notes of the last stage that leaves this kind."""
    return summaries[assembly.only(kind).identity].notes


def _costs(assembly: Assembly, summaries: Mapping[str, Summary]) -> list[StageCost]:
    return [
        StageCost(
            stage=stage.name,
            role=u.role,
            model=u.model,
            prompt_tokens=u.prompt_tokens,
            completion_tokens=u.completion_tokens,
            calls=u.calls,
            seconds=u.seconds,
            flops=u.flops,
        )
        for stage in assembly.stages
        for u in summaries[stage.identity].usage
    ]


def _counts(assembly: Assembly, summaries: Mapping[str, Summary]) -> list[StageCount]:
    return [
        StageCount(
            stage=stage.name,
            identity=stage.identity,
            rows_in=s.rows_in,
            kept=s.kept,
            rejected=s.rejected,
            seconds=s.seconds,
            shortened=s.shortened,
            mended=s.mended,
        )
        for stage in assembly.stages
        for s in (summaries[stage.identity],)
    ]


def _record(
    assembly: Assembly, store: Path, folder: Path, summaries: Mapping[str, Summary], samples: Sequence[Sample]
) -> RunRecord:
    c = assembly.plan.config
    rounds, inheritance = round_results(assembly, store, summaries)
    columns = _scores(assembly, store, summaries, assembly.only("tuned_answers"))
    base_columns = _scores(assembly, store, summaries, assembly.only("base_answers"))
    return RunRecord(
        run=folder.name,
        method=c.method,
        driver=c.driver.name,
        signal=c.signal.name,
        target=c.target,
        suite=assembly.plan.tests.name,
        scale=c.scale,
        lab_world=c.lab.world if c.lab else None,
        synth_seed=c.synthesis_seed,
        sft_seed=c.tuning_seed,
        match=c.match,
        budget=c.budget,
        reads_validation=assembly.reads_validation,
        guided_columns=assembly.guided_columns,
        columns=columns,
        base_columns=base_columns,
        cost=_costs(assembly, summaries),
        counts=_counts(assembly, summaries),
        validity_flags=_flags(assembly, summaries),
        data_metrics=_data_metrics(samples),
        contamination=_notes(assembly, summaries, "gated")["contamination"],
        upstream=assembly.upstream,
        reads_itself=assembly.reads_itself,
        retention=retention(*(_answers(assembly, store, kind) for kind, _ in MODELS)),
        forgetting=forgetting(base_columns, columns),
        rounds=rounds,
        inheritance=inheritance,
        students=_students(assembly, store, summaries),
    )


def _flags(assembly: Assembly, summaries: Mapping[str, Summary]) -> list[str]:
    c = assembly.plan.config
    flags = []
    if c.models.target.id.startswith("lab:") and assembly.plan.tests.name != "lab":
        flags.append(
            "rehearsal: the lab's tiny target cannot know this suite; its scores are near chance and only show that "
            "the loop runs"
        )
    flags += copies(c.models)
    if assembly.plan.other_tests is not None:
        flags.append(
            f"leaks unchecked: the data were checked against suite {assembly.suite.name}, and scored on "
            f"{assembly.plan.tests.name}"
        )
    noted = [summaries[stage.identity].notes for stage in assembly.stages]
    for given in (notes["given"] for notes in noted if notes.get("given")):
        flags.append(f"own warm-up: the signal read {', '.join(given)}, whose training is in no cost of this run")
    flags += dict.fromkeys(f"variant: {notes['variant']}" for notes in noted if notes.get("variant"))
    flags += _cut_texts(assembly, summaries)
    flags += _partial(assembly, summaries)
    # The last stage that fell short is nearest to the data set.
    shortfall = next((notes["shortfall"] for notes in reversed(noted) if "shortfall" in notes), None)
    if shortfall is not None:
        flags.append(f"shortfall: the data set is {shortfall:.0%} below the declared line")
    if c.scale == "smoke":
        flags.append("smoke scale: too small to compare anything")
    return flags


def _partial(assembly: Assembly, summaries: Mapping[str, Summary]) -> list[str]:
    """The benchmarks that were scored on their first items alone; a limit above a benchmark's size cuts nothing."""
    plan, cut = assembly.plan, []
    limit = plan.config.eval.limit
    if limit is None:
        return []
    for column in _notes(assembly, summaries, "tuned_answers")["columns"]:
        # Fewer items than the limit are all that there are.
        if column["n"] == limit:
            total = len(load_items(plan.tests.benchmark(column["column"]), plan.data, plan.tests.folder))
            cut += [f"{limit} of {total:,} items of {column['column']}"] if total > limit else []
    return [f"partial: only the first {', '.join(cut)} were scored"] if cut else []


def _cut_texts(assembly: Assembly, summaries: Mapping[str, Summary]) -> list[str]:
    """The texts that did not fit the target: test prompts that were cut, validation items that guided nothing."""
    flags = [
        f"truncated: {c['truncated']} of {c['n']} prompts of {c['column']} were cut from the left to fit the target"
        for c in _notes(assembly, summaries, "tuned_answers")["columns"]
        if c["truncated"]
    ]
    for stage in (s for s in assembly.stages if s.kind in WEIGHTS):
        notes = summaries[stage.identity].notes
        if notes.get("truncated"):
            model = stage.student or "target"
            flags.append(
                f"truncated: {notes['truncated']} pairs of stage {stage.name} were cut at the end to fit the {model}, "
                f"{notes['unusable']} of them before their answer began"
            )
    prepared = [s.notes["prepared"].get("validation", {}) for s in summaries.values() if "prepared" in s.notes]
    guided = {part: found for parts in prepared for part, found in parts.items()}
    room = assembly.plan.config.models.target.max_length
    for part in ("rewarded", "withheld"):
        lost = int(guided.get(part, {}).get("unusable", 0))
        if lost:
            total = lost + int(guided[part]["items"])
            flags.append(
                f"validation: {lost} of {total} {part} items guided nothing: no answer token within {room} tokens "
                "(models.target.max_length), or no usable gradient"
            )
    return flags


def _data_metrics(samples: Sequence[Sample]) -> dict[str, Any]:
    words = [len(s.question.split()) + len(s.answer.split()) for s in samples]
    return {
        "samples": len(samples),
        "generated_tokens": sum(s.completion_tokens for s in samples),
        "mean_words": sum(words) / len(words),
        "distinct_seeds": len({s.seed_ids for s in samples}),
        "distinct_questions": len({s.question for s in samples}),
    }


def _write_items(store: Path, folder: Path, assembly: Assembly) -> None:
    rows = [{**row, "model": model} for kind, model in MODELS for row in _answers(assembly, store, kind)]
    for stage in (s for s in assembly.stages if s.student and s.kind in STUDENT_MODELS):
        model = student_items(STUDENT_MODELS[stage.kind], stage.student)
        rows += [{**row, "model": model} for row in read_shards(stage_folder(store, stage))]
    write_table(folder / "items.parquet", rows)


def _answers(assembly: Assembly, store: Path, kind: Kind) -> list[dict[str, Any]]:
    """A model's answers to the items of all benchmarks."""
    return read_shards(stage_folder(store, assembly.only(kind)))


def _link_model(folder: Path, model: Path) -> None:
    """`model` points into the store, since weights are large; `export` copies them."""
    link = folder / MODEL
    temporary = folder / ".model.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(model, folder), target_is_directory=True)
    os.replace(temporary, link)


def _card(
    assembly: Assembly,
    record: RunRecord,
    samples: Sequence[Sample],
    seeds: Sequence[Seed],
    summaries: Mapping[str, Summary],
) -> str:
    c = assembly.plan.config
    licences = Counter(s.licence or "not stated" for s in seeds)
    # A seed's source names its row too; the card names files and data sets.
    sources = Counter(s.source.partition("#")[0] or "not stated" for s in seeds)
    labelled = sum(reference_of(s) is not None for s in seeds)
    # What nobody wrote for this run is the seeds' own.
    written = bool(c.route_roles)
    kind = "synthetic conversations" if written else "conversations"
    what = "documents" if not labelled else f"seeds, {labelled} of them labelled questions"
    lines = [
        f"# {record.run}",
        "",
        f"{len(samples)} {kind} made by `{c.method}` (driver `{c.driver.name}`, signal `{c.signal.name}`) for the"
        f" target `{c.models.target.id}`.",
        "",
        *[f"- Note: {line}" for line in copies(c.models)],
        f"- Route `{c.route.name}`: {_written_by(assembly)}",
        f"- Seeds: {len(seeds)} {what}; sources: {_tally(sources)}; licences: {_tally(licences)}",
        "- The seeds themselves are not included. Answers repeat facts from them; the seeds' licences apply."
        if written
        else "- The conversations are rows of these seeds, whose licences apply.",
        f"- Guided by the validation set `{c.guide.set}` of suite `{assembly.suite.name}`: "
        f"{'yes' if assembly.reads_itself else 'no'}",
        *[f"- From an earlier run: {origin.line()}" for origin in record.upstream],
        f"- Seeds of randomness: data {record.synth_seed}, fine-tuning {record.sft_seed}",
        "",
        "## Filters",
        "",
    ]
    filters = ("seeds", "chosen", "pairs", "gated", "dataset")
    lines += [f"- {s.name}: {summaries[s.identity].line()}" for s in assembly.stages if s.kind in filters]
    lines += [
        "",
        "## Contamination",
        "",
        *[f"- {line}" for report in record.contamination for line in contamination_lines(report)],
        "",
        "## Data",
        "",
        *[
            f"- {name}: {value:.3g}" if isinstance(value, float) else f"- {name}: {value}"
            for name, value in record.data_metrics.items()
        ],
        "",
        "One JSON object a line with `messages` (system, user, assistant) and `id`.",
        "",
    ]
    return "\n".join(lines)


def _written_by(assembly: Assembly) -> str:
    """The models that wrote the pairs by role, and which of them the run trained."""
    c, trained = assembly.plan.config, assembly.last("policy") is not None
    roles = [*c.route_roles, *(["labeller"] if c.labels is not None else [])]
    if not roles:
        return "the authors of the seeds"
    notes = {roles[0]: " (trained in this run)" if trained else ""}
    return "; ".join(f"{role} `{c.models.of(role).id}`{notes.get(role, '')}" for role in roles)


def _tally(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ({n})" for name, n in counts.most_common(5))
