"""A report as a screen of text: what was found, what was removed, and what other thresholds would have done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.screen import WIDTH, aligned

NAMED = 12
"""Fields, or items, that are named; of more, their number is said."""
TITLES = {"text": "whole", "contained": "inside", "ngram": "n-gram", "embedding": "embedding"}


def render_text(report: Mapping[str, Any]) -> str:
    """The screen of a report, as `report.json` holds it; at most 100 columns."""
    items = sum(b["items"] for b in report["benchmarks"])
    lines = [
        report["pair"],
        f"  {report['rows']:,} rows, {report['documents']:,} texts, {items:,} test items, {report['engine']} engine",
        f"  {report['removed']:,} rows removed ({report['removed'] / report['rows']:.2%})",
    ]
    if report["rows_without_text"]:
        lines.append(f"  {report['rows_without_text']:,} rows have no text of the checked parts, and are kept")
    lines += _fields(report["fields"])
    lines += [f"  {note}" for note in report["notes"]]
    lines += ["", "Test items found in the training text", *_benchmarks(report["benchmarks"])]
    lines += _unasked(report)
    lines += ["", "Rows removed, by source", *_sources(report["sources"])]
    if report["steps"]:
        lines += ["", "Other thresholds", *_steps(report)]
    if report["common"]:
        examples = "; ".join(f"{c['ngram']} ({c['unrelated']:,})" for c in report["common"][:3])
        lines += [
            "",
            f"{report['common_total']:,} n-grams stand in more than {report['common_limit']:,} unrelated texts and "
            "count for little:",
            f"  {examples}"[:WIDTH],
        ]
    return "\n".join(lines)


def _fields(uses: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields that were read, by part, and those that were not, with the rows that have them."""
    lines: list[str] = []
    for title, part in (("prompts", "prompt"), ("answers", "answer"), ("text not read", "")):
        mine = [use for use in uses if use["part"] == part]
        names = [f"{u['field']}{'' if u['known'] else '?'} {u['rows']:,}" for u in mine[:NAMED]]
        more = [f"{len(mine) - NAMED:,} more"] if len(mine) > NAMED else []
        lines += _wrapped(f"{title}: ", [*names, *more]) if mine else []
    if any(not use["known"] for use in uses):
        lines.append("  (rows with each field; ?: a name that says nothing about its part, read as a prompt's)")
    return lines


def _unasked(report: Mapping[str, Any]) -> list[str]:
    """The items that could not be looked for, or only in part."""
    lines: list[str] = []
    for rate in report["benchmarks"]:
        ids = report["unasked"].get(rate["benchmark"], ())
        if ids:
            more = [f"{len(ids) - NAMED:,} more"] if len(ids) > NAMED else []
            title = f"not asked for: {len(ids):,} of {rate['items']:,} items of {rate['benchmark']}, without text: "
            lines += _wrapped(title, [*ids[:NAMED], *more])
        if rate["partial"]:
            lines.append(f"  {rate['partial']:,} items of {rate['benchmark']} have an empty field; the others serve")
    return lines


def _wrapped(title: str, parts: Sequence[str]) -> list[str]:
    import textwrap

    return textwrap.wrap(title + ", ".join(parts), WIDTH, initial_indent="  ", subsequent_indent="    ")


def _benchmarks(rates: Sequence[Mapping[str, Any]]) -> list[str]:
    kinds = list(rates[0]["found"])
    rows = [["benchmark", "items", "short", *(TITLES[k] for k in kinds), "any", "share", "short found"]]
    for b in rates:
        asked = b["items"] - b["empty"]
        found = [f"{b['found'][k]:,}" for k in kinds]
        share = f"{b['touched'] / asked:.2%}" if asked else ""
        rows.append([b["benchmark"], f"{asked:,}", f"{b['short']:,}", *found, f"{b['touched']:,}", share])
        rows[-1].append(f"{b['short_touched']:,}")
    return aligned(rows)


def _sources(rates: Sequence[Mapping[str, Any]]) -> list[str]:
    kinds = list(rates[0]["found"])
    rows = [["source", "rows", *(TITLES[k] for k in kinds), "removed", "share"]]
    for s in rates:
        share = f"{s['removed'] / s['rows']:.2%}" if s["rows"] else ""
        found = [f"{s['found'][k]:,}" for k in kinds]
        rows.append([s["source"][:40], f"{s['rows']:,}", *found, f"{s['removed']:,}", share])
    return aligned(rows)


def _steps(report: Mapping[str, Any]) -> list[str]:
    settings = report["settings"]
    now = {"ngram": settings["ngram_threshold"], "embedding": settings["embedding_threshold"]}
    lines: list[str] = []
    for kind in dict.fromkeys(s["kind"] for s in report["steps"]):
        mine = [s for s in report["steps"] if s["kind"] == kind]
        title = TITLES[kind] if kind == "ngram" else f"{TITLES[kind]} ({settings['embedding_unit']})"
        marks = [f"{s['threshold']:g}{'*' if s['threshold'] == now[kind] else ''}" for s in mine]
        rows = [[f"{title} above", *marks], ["  items found", *(f"{s['touched']:,}" for s in mine)]]
        rows.append(["  rows removed by it alone", *(f"{s['removed']:,}" for s in mine)])
        lines += aligned(rows)
    return [*lines, "  * in force"]
