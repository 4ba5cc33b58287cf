"""The screens of finished and unfinished runs: `ls`, `show`, `compare` and `export`.

Screens are plain text of at most 100 columns, read from run folders alone. They state what was not measured by leaving
the cell empty, and give each number's denominator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.choice import stored_name
from harness.errors import InputError
from harness.facts import facts_from_rows
from harness.record import RunRecord
from harness.screen import aligned
from results.compare import render_compare
from results.contamination import any_unclean, clean_cell, contamination_lines, formatted
from results.differences import reading
from results.export import OUTPUTS, describe_output, export_run
from results.runs import Run, last_event, load_run, missing_output, output, read_items, run_folders
from results.students import render_students
from results.tables import (
    GUIDED_MARK,
    SCORES_TITLE,
    Arm,
    column_cell,
    cost_rows,
    difference_cell,
    mark_notes,
    score_cell,
)
from results.text import count, duration, kept_together, percent, shorten, wrapped

ONE_DRAW = "Errors are over test items; one run is one draw, and another seed of the same method would differ."
_REASONS_WIDTH = 58
"""What the other columns of a run's counts leave of the screen."""

__all__ = ["export_run", "render_compare", "render_ls", "render_show"]


def render_ls(runs_dir: Path) -> str:
    """One line for each run of `runs_dir`, newest first, with the gain in its first measured column."""
    rows, broken = [], []
    for folder in run_folders(runs_dir):
        try:
            run = load_run(folder)
        except InputError as error:
            broken.append(str(error))
            continue
        rows.append([shorten(run.name, 46), run.status, str(run.manifest.get("created", ""))[:16], _headline(run)])
    if not rows and not broken:
        return f"{runs_dir} holds no runs; start one with: harness run --method optimsyn --target nano"
    rows.sort(key=lambda row: (row[2], row[0]), reverse=True)
    table = aligned([["run", "status", "created", "first column, base → tuned"], *rows], left=4)
    return "\n".join([*table, *broken])


def _headline(run: Run) -> str:
    if run.record is None:
        return ""
    bases = {c.column: c.score for c in run.record.base_columns}
    for column in run.record.columns:
        if column.score is not None:
            mark, shown = GUIDED_MARK if column.guided else "", formatted(column)
            return f"{column.column}{mark} {shown(bases.get(column.column)) or '?'} → {shown(column.score)}"
    return ""


def render_show(run_folder: Path) -> str:
    """One run: what it is, measured, counted, spent and left behind; of an incomplete run, how far it came."""
    run = load_run(run_folder)
    lines = [run.name, *_facts(run)]
    if run.record is None:
        doing = last_event(run_folder)
        lines += ["", f"Not complete. Last event: {doing or 'none'}. Go on with: harness resume {run_folder}"]
        return "\n".join(lines)
    arm = Arm("run", run.record, read_items(run_folder))
    lines += ["", SCORES_TITLE, *aligned(_scores(arm)), *_probabilities(run.record)]
    lines += [line for origin in run.record.upstream for line in wrapped(f"From an earlier run: {origin.line()}")]
    lines += _unmeasured(run) + [line for flag in run.record.validity_flags for line in wrapped(f"Caution: {flag}")]
    lines += mark_notes([run.record])
    lines.append(ONE_DRAW)
    lines += render_students(arm)
    lines += _rounds(run.record)
    lines += _retention(run.record)
    lines += ["", "Rows in, kept, rejected by reason", *aligned(_counts(run))]
    lines += _shortened(run)
    lines += _contamination(run)
    lines += _signal(run)
    lines += ["", "Tokens and seconds by role", *aligned(cost_rows([arm]), left=2)]
    lines += _metrics(run.record.data_metrics) + _outputs(run)
    return "\n".join(lines)


_VALIDATION = {
    "yes": "the signal reads labelled validation items",
    "yes, and before": "the signal reads labelled validation items, and so did what the run is made from",
    "no": "not read",
}


def _facts(run: Run) -> list[str]:
    manifest, record = run.manifest, run.record
    facts = {"status": run.status, "created": str(manifest.get("created", ""))[:19]}
    if record:
        route = stored_name(manifest.get("settings", {}).get("route")) or "rubric"
        way = "" if route == "rubric" else f", route {route}"
        facts["method"] = f"{record.method} = {record.driver} × {record.signal}{way}"
        facts["target"] = ", ".join(
            part
            for part in (
                record.target,
                f"suite {record.suite}",
                f"scale {record.scale}" if record.scale else "",
                f"lab world {record.lab_world}" if record.lab_world is not None else "",
                f"data seed {record.synth_seed}",
                f"tuning seed {record.sft_seed}",
            )
            if part
        )
        facts["took"] = duration(sum(c.seconds for c in record.counts)) + " for all stages, reused ones included"
        facts["budget"] = f"{record.budget:g} {record.match}"
        facts["validation"] = _VALIDATION.get(reading(record), reading(record))
    argv = manifest.get("argv")
    if isinstance(argv, Sequence) and not isinstance(argv, str):
        facts["command"] = shorten(" ".join(str(word) for word in argv), 86)
    commit = manifest.get("git_commit") or manifest.get("commit")
    if commit:
        dirty = manifest.get("git_dirty") or manifest.get("dirty")
        facts["code"] = str(commit)[:12] + (" with uncommitted changes" if dirty else "")
    return [f"  {name:<10}  {value}" for name, value in facts.items() if value]


def _scores(arm: Arm) -> list[list[str]]:
    rows = [["column", "items", "base", "tuned", "difference"]]
    assert arm.record is not None
    if clean := any_unclean([arm.record]):
        rows[0].append("tuned, clean items")
    for column in arm.record.columns:
        difference = difference_cell(arm, arm, "base", column.column)
        base = score_cell(arm.base(column.column))
        items = str(column.n) if column.n else ""
        rows.append([column_cell(column, column.column), items, base, score_cell(column, column.guided), difference])
        if clean:
            rows[-1].append(clean_cell(column))
    return rows


def _probabilities(record: RunRecord) -> list[str]:
    """The mean probability of the right choice by column, before and after; it has no steps, as an accuracy has."""
    base = {c.column: c.probability for c in record.base_columns}
    said = []
    for column in record.columns:
        before, after = base.get(column.column), column.probability
        if after is not None:
            said.append(f"{column.column} {'?' if before is None else percent(before)} → {percent(after)}")
    return wrapped(f"Mean probability of the right choice, in percent: {', '.join(said)}") if said else []


def _unmeasured(run: Run) -> list[str]:
    columns = run.record.columns if run.record else ()
    return [f"{c.column} was not measured" + (f": {c.reason}" if c.reason else "") for c in columns if c.score is None]


def _rounds(record: RunRecord) -> list[str]:
    """The learning curve of a loop, what its rounds cost, and whether pairs score as their seeds did."""
    if not record.rounds:
        return []
    columns = {c.column: c for c in record.columns}
    base = {c.column: c.score for c in record.base_columns}
    rows = [["round", "seeds", "samples", *columns, "seconds", "tokens"]]
    rows.append(["", "", "0", *(formatted(columns[name])(base.get(name)) for name in columns), "", ""])
    for r in record.rounds:
        scores = [formatted(columns[name])(r.scores.get(name)) for name in columns]
        numbers = [str(r.number), count(r.seeds), count(r.samples)]
        rows.append([*numbers, *scores, f"{r.seconds:,.1f}", count(sum(r.tokens.values()))])
    lines = [
        "",
        "Round by round: all samples by its end, the target's scores; what its own stages took",
        *aligned(rows),
    ]
    if (i := record.inheritance) is not None:
        said = [
            f"{_rho(i.of_pairs)} over {i.pairs} pairs",
            f"{_rho(i.of_medians)} over the medians of {i.rounds} rounds",
        ]
        lines += wrapped(f"Rank correlation of pairs' scores with those of their seeds: {'; '.join(said)}")
    return lines


def _rho(value: float | None) -> str:
    return "not defined" if value is None else f"{value:+.2f}"


def _retention(record: RunRecord) -> list[str]:
    """The retention of a fine-tuning: what the target still can, item by item and beside the guided columns."""
    if not record.retention:
        return []
    rows = [["column", "right before", "still right", "newly right"]]
    for r in record.retention:
        still = count(r.still_right) + (f" ({r.share:.0%})" if r.share is not None else "")
        rows.append([r.column, f"{count(r.right_before)} of {count(r.n)}", still, count(r.newly_right)])
    lines = ["", "Items that the target had right before, and after", *aligned(rows)]
    if (f := record.forgetting) and f.columns > 1:
        said = f"mean change {100 * f.mean:+.1f} points, worst {100 * f.worst:+.1f} ({f.worst_column})"
        lines += wrapped(f"Over the {f.columns} columns that guided nothing: {said}")
    return lines


def _counts(run: Run) -> list[list[str]]:
    """One line a stage: a single run has room for its reasons beside the numbers."""
    rows = [["stage", "in", "kept", "seconds", "  rejected"]]
    for c in run.record.counts if run.record else ():
        reasons = ", ".join(
            kept_together(f"{name} {count(n)}") for name, n in sorted(c.rejected.items(), key=lambda kv: -kv[1])
        )
        numbers = [count(c.rows_in), count(c.kept)] if c.rows_in or c.kept else ["", ""]
        first, *more = wrapped(reasons, _REASONS_WIDTH, indent="") or [""]
        rows.append([c.stage, *numbers, f"{c.seconds:,.1f}", "  " + first])
        rows += [["", "", "", "", "  " + line] for line in more]
    # Reasons read flush left, numbers flush right.
    width = max(len(row[-1]) for row in rows)
    return [[*row[:-1], row[-1].ljust(width)] for row in rows]


def _shortened(run: Run) -> list[str]:
    """The number of a stage's rows that had a document that did not fit the model that read it."""
    counts = run.record.counts if run.record else ()
    cut = [kept_together(f"{c.stage} {count(c.shortened)} of {count(c.rows_in)}") for c in counts if c.shortened]
    return wrapped(f"Documents shortened to fit a model's context: {', '.join(cut)}") if cut else []


def _contamination(run: Run) -> list[str]:
    """The findings between each pair of texts that the run checked."""
    reports = run.record.contamination if run.record else ()
    lines = [line for report in reports for line in wrapped(" ".join(contamination_lines(report)))]
    return ["", "Contamination check, by pair", *lines] if lines else []


def _signal(run: Run) -> list[str]:
    """The word of the signals' preparations and last scorings on how far the scores can be believed."""
    lines = []
    before: list[str] = []
    for stage, entry in run.manifest.get("signals", {}).items():
        facts = [*facts_from_rows(entry.get("facts")), *facts_from_rows(entry.get("diagnostics"))]
        found = [f"{fact.meaning}: {fact.shown}" for fact in facts if fact.shown]
        # A loop's later rounds say what is other than in the round before.
        said = [fact for fact in found if fact not in before]
        before = found
        checks = entry.get("checks", ())
        passed = sum(check["status"] == "passed" for check in checks)
        said += [f"self-check: {passed} of {len(checks)} passed"] if checks else []
        if said:
            lines += ["", f"Signal {entry['signal'] or 'none'} in stage {stage}"]
            lines += [line for fact in said for line in wrapped(f"  {fact}", indent="    ")]
    return lines


def _metrics(metrics: Mapping[str, Any]) -> list[str]:
    flat = [(k, v) for k, v in metrics.items() if isinstance(v, (int, float, str)) and not isinstance(v, bool)]
    if not flat:
        return []
    body = [[name, f"{value:,.3g}" if isinstance(value, float) else str(value)] for name, value in flat]
    return ["", "The generated data", *[f"  {line}" for line in aligned(body)]]


def _outputs(run: Run) -> list[str]:
    rows, lost = [], []
    for name in OUTPUTS:
        where = output(run, name)
        if where is None:
            lost += wrapped(f"Missing: {missing_output(run, name)}", indent="    ")
        else:
            rows.append([name, describe_output(where)])
    plots = sorted(path.name for path in run.folder.glob("*.png"))
    if plots:
        rows.append(["plots", ", ".join(plots)])
    lines = [*aligned(rows, left=2), *lost]
    return ["", f"What it left in {run.folder}", *[f"  {line}" for line in lines]] if lines else []
