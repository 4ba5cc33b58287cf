"""What a finished run leaves beside its stages: record, items, data set with its card, model, plots."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evals.data import load_items
from harness.models.dequantise import copies
from harness.record import ColumnScore, RunRecord, StageCost, StageCount
from harness.runtime.assemble import Assembly
from harness.runtime.clean import with_clean_scores
from harness.shards import Summary, read_records, read_rows, write_table, write_text
from harness.stage import Stage, stage_folder
from harness.types import Sample, Seed, chat
from results.contamination import contamination_lines


def write_outputs(assembly: Assembly, store: Path, folder: Path, summaries: Mapping[str, Summary]) -> RunRecord:
    """Write everything; the record comes last, since its presence says that the run is complete."""
    by_name = {stage.name: stage for stage in assembly.stages}
    samples = read_records(stage_folder(store, by_name["dataset"]), Sample)
    seeds = read_records(stage_folder(store, by_name["sources"]), Seed)
    record = _record(assembly, store, folder, summaries, samples)
    lines = [json.dumps({"messages": chat(s.messages), "id": s.id}, ensure_ascii=False) for s in samples]
    write_text(folder / "dataset.jsonl", "\n".join(lines) + "\n")
    write_text(folder / "README.md", _card(assembly, record, samples, seeds, by_name, summaries))
    _write_items(store, folder, by_name)
    _link_model(store, folder, by_name["finetune"])
    if "grpo" in by_name:
        from results.learning import plot_learning

        plot_learning(
            read_rows(stage_folder(store, by_name["grpo"])), assembly.plan.config.signal.name, folder / "learning.png"
        )
    record.write(folder / "record.json")
    return record


def _columns(assembly: Assembly, summary: Summary) -> list[ColumnScore]:
    guided = set(assembly.guided_columns)
    return [
        ColumnScore(
            c["column"],
            c["metric"],
            c["n"],
            c["score"],
            c["stderr"],
            c["status"],
            c["reason"],
            c["column"] in guided,
        )
        for c in summary.notes["columns"]
    ]


def _scores(assembly: Assembly, store: Path, by_name: Mapping[str, Summary], stage: str) -> list[ColumnScore]:
    """A model's columns, with their scores on clean items where the data were checked against these very tests."""
    columns = _columns(assembly, by_name[stage])
    if assembly.plan.other_tests is not None:
        return columns
    found = next(s for s in assembly.stages if s.name == stage)
    return with_clean_scores(columns, read_rows(stage_folder(store, found)), by_name["decontaminate"].notes["touched"])


def _record(
    assembly: Assembly, store: Path, folder: Path, summaries: Mapping[str, Summary], samples: Sequence[Sample]
) -> RunRecord:
    c = assembly.plan.config
    by_name = {stage.name: summaries[stage.identity] for stage in assembly.stages}
    cost = [
        StageCost(stage.name, u.role, u.model, u.prompt_tokens, u.completion_tokens, u.calls, u.seconds, u.flops)
        for stage in assembly.stages
        for u in summaries[stage.identity].usage
    ]
    counts = [
        StageCount(stage.name, stage.identity, s.rows_in, s.kept, s.rejected, s.seconds, s.shortened, s.mended)
        for stage in assembly.stages
        for s in (summaries[stage.identity],)
    ]
    return RunRecord(
        run=folder.name,
        method=c.method,
        driver=c.driver,
        signal=c.signal.name,
        target=c.target,
        suite=assembly.plan.tests.name,
        scale=c.scale,
        lab_world=assembly.plan.world,
        synth_seed=c.synthesis_seed,
        sft_seed=c.tuning_seed,
        match=c.match,
        budget=c.budget,
        reads_validation=assembly.reads_validation,
        guided_columns=assembly.guided_columns,
        columns=_scores(assembly, store, by_name, "evaluate"),
        base_columns=_scores(assembly, store, by_name, "evaluate_base"),
        cost=cost,
        counts=counts,
        validity_flags=_flags(assembly, by_name),
        data_metrics=_data_metrics(samples),
        contamination=by_name["decontaminate"].notes["contamination"],
        upstream=assembly.upstream,
        reads_itself=assembly.reads_itself,
    )


def _flags(assembly: Assembly, by_name: Mapping[str, Summary]) -> list[str]:
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
    given = by_name["warmup"].notes.get("given") if "warmup" in by_name else None
    if given:
        flags.append(f"own warm-up: the signal read {', '.join(given)}, whose training is in no cost of this run")
    flags += _cut_texts(assembly, by_name)
    flags += _partial(assembly, by_name)
    shortfall = by_name["dataset"].notes.get("shortfall", by_name["regenerate"].notes.get("shortfall"))
    if shortfall is not None:
        flags.append(f"shortfall: the data set is {shortfall:.0%} below the declared line")
    if c.scale == "smoke":
        flags.append("smoke scale: too small to compare anything")
    return flags


def _partial(assembly: Assembly, by_name: Mapping[str, Summary]) -> list[str]:
    """Which benchmarks were scored on their first items alone; a limit above a benchmark's size cuts nothing."""
    plan, cut = assembly.plan, []
    limit = plan.config.eval.limit
    if limit is None:
        return []
    for column in by_name["evaluate"].notes["columns"]:
        # Fewer items than the limit are all that there are.
        if column["n"] == limit:
            total = len(load_items(plan.tests.benchmark(column["column"]), plan.data, plan.tests.folder))
            cut += [f"{limit} of {total:,} items of {column['column']}"] if total > limit else []
    return [f"partial: only the first {', '.join(cut)} were scored"] if cut else []


def _cut_texts(assembly: Assembly, by_name: Mapping[str, Summary]) -> list[str]:
    """What did not fit the target: test prompts that were cut, and validation items that therefore guided nothing."""
    flags = [
        f"truncated: {c['truncated']} of {c['n']} prompts of {c['column']} were cut from the left to fit the target"
        for c in by_name["evaluate"].notes["columns"]
        if c["truncated"]
    ]
    for name in ("warmup", "finetune"):
        notes = by_name[name].notes if name in by_name else {}
        if notes.get("truncated"):
            flags.append(
                f"truncated: {notes['truncated']} pairs of stage {name} were cut at the end to fit the target, "
                f"{notes['unusable']} of them before their answer began"
            )
    facts = {key: value for s in by_name.values() for key, value in s.notes.get("facts", {}).items()}
    room = assembly.plan.config.models.target.max_length
    for part in ("rewarded", "withheld"):
        lost = int(facts.get(part, {}).get("validation_unusable", 0))
        if lost:
            total = lost + int(facts[part]["validation_items"])
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


def _write_items(store: Path, folder: Path, by_name: Mapping[str, Stage]) -> None:
    rows = []
    for name, model in (("evaluate_base", "base"), ("evaluate", "tuned")):
        rows += [{**row, "model": model} for row in read_rows(stage_folder(store, by_name[name]))]
    write_table(folder / "items.parquet", rows)


def _link_model(store: Path, folder: Path, tuned: Stage) -> None:
    """`model` points into the store, since weights are large; `export` copies them."""
    link = folder / "model"
    temporary = folder / ".model.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(stage_folder(store, tuned) / "model", folder), target_is_directory=True)
    os.replace(temporary, link)


def _card(
    assembly: Assembly,
    record: RunRecord,
    samples: Sequence[Sample],
    seeds: Sequence[Seed],
    by_name: Mapping[str, Stage],
    summaries: Mapping[str, Summary],
) -> str:
    c = assembly.plan.config
    licences = Counter(s.licence or "not stated" for s in seeds)
    # A seed's source names its row too; the card names files and data sets.
    sources = Counter(s.source.partition("#")[0] or "not stated" for s in seeds)
    lines = [
        f"# {record.run}",
        "",
        f"{len(samples)} synthetic conversations made by `{c.method}` (driver `{c.driver}`, signal `{c.signal.name}`) "
        f"for the target `{c.models.target.id}`.",
        "",
        *[f"- Note: {line}" for line in copies(c.models)],
        f"- Writer: `{c.models.writer.id}`{' (trained in this run)' if 'grpo' in by_name else ''}; generator: "
        f"`{c.models.generator.id}`",
        f"- Seeds: {len(seeds)} documents; sources: {_tally(sources)}; licences: {_tally(licences)}",
        "- The documents themselves are not included. Answers repeat facts from them; the seeds' licences apply.",
        f"- Guided by the validation set `{c.guide.set}` of suite `{assembly.suite.name}`: "
        f"{'yes' if assembly.reads_itself else 'no'}",
        *[f"- From an earlier run: {origin.line()}" for origin in record.upstream],
        f"- Seeds of randomness: data {record.synth_seed}, fine-tuning {record.sft_seed}",
        "",
        "## Filters",
        "",
    ]
    for name in ("sources", "initial", "regenerate", "decontaminate", "dataset"):
        if name in by_name:
            lines.append(f"- {name}: {summaries[by_name[name].identity].line()}")
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


def _tally(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ({n})" for name, n in counts.most_common(5))
