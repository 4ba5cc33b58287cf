"""The page of a check: one file without scripts or links, that can be mailed and opened anywhere.

Tables first, then pair by pair the training text beside the test item, with what they share marked on both sides. Text
keeps its own direction, so that right-to-left scripts read as they should.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import log1p

from decontam.evidence import Shown
from decontam.outputs import DOUBT, EVIDENCE, Evidence, Listed
from decontam.rarity import TEMPLATE
from decontam.report import ContaminationReport

_STYLE = """
:root{--ink:#1d2330;--soft:#5b6472;--line:#d9dee6;--card:#fff;--page:#f5f6f8;--mark:#ffe08a;--bad:#b3261e;--ok:#22663f}
@media (prefers-color-scheme:dark){:root{--ink:#e4e8ef;--soft:#9aa4b2;--line:#343c49;--card:#1b212b;--page:#12161d;
--mark:#7a5d00;--bad:#ff8a80;--ok:#7fd6a3}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:22px;margin:0 0 4px;overflow-wrap:anywhere}h2{font-size:17px;margin:34px 0 10px}
p{margin:6px 0;max-width:80ch}.soft{color:var(--soft)}
.facts{display:flex;flex-wrap:wrap;gap:10px;margin:18px 0}
.fact{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:10px 16px;min-width:120px}
.fact b{display:block;font-size:22px;line-height:1.2;font-variant-numeric:tabular-nums}.fact span{color:var(--soft)}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:8px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:6px 12px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
tr:last-child td{border-bottom:0}th{color:var(--soft);font-weight:600}
th:first-child,td:first-child{text-align:left}td.wrap{white-space:normal;overflow-wrap:anywhere}
tr.now td{font-weight:700}.zero{color:var(--soft)}
.pair{background:var(--card);border:1px solid var(--line);border-radius:8px;margin:12px 0;overflow:hidden}
.head{display:flex;flex-wrap:wrap;gap:4px 16px;padding:8px 14px;border-bottom:1px solid var(--line)}
.tag{font-size:12px;font-weight:700;letter-spacing:.03em;color:var(--bad)}.tag.kept{color:var(--soft)}
.sides{display:grid;grid-template-columns:1fr 1fr}
.side{padding:10px 14px;min-width:0}.side+.side{border-left:1px solid var(--line)}
.side h3{font-size:12px;margin:0 0 4px;color:var(--soft);font-weight:600}
.text{white-space:pre-wrap;overflow-wrap:anywhere;max-height:340px;overflow-y:auto;font-size:14px}
.text+.text{border-top:1px dashed var(--line);margin-top:8px;padding-top:8px}
mark{background:var(--mark);color:inherit;border-radius:2px;padding:0 1px}
.bar{display:inline-block;height:10px;background:var(--ok);border-radius:2px;vertical-align:middle;min-width:1px}
td.bars{text-align:left;width:45%}
.grid{display:grid;grid-template-columns:1fr 1fr;gap:0 20px}
summary{cursor:pointer;color:var(--soft);margin:8px 0}
@media (max-width:720px){.grid{grid-template-columns:1fr}
.sides{grid-template-columns:1fr}.side+.side{border-left:0;border-top:1px solid var(--line)}}
"""

NAMES = {
    "text": "whole item in the text",
    "contained": "text inside the item",
    "ngram": "n-grams",
    "embedding": "embedding",
}


def render_page(report: ContaminationReport, shown: Listed) -> str:
    """The page of a report with some of its evidence."""
    rules = _rules(report)
    body = [
        f"<h1>{escape(report.pair)}</h1>",
        f'<p class="soft">{escape(rules)}</p>',
        _facts(report),
        *[f"<p>{escape(note)}.</p>" for note in report.notes],
        "<h2>Benchmarks: items found in the training text</h2>",
        _benchmarks(report),
        *_unasked(report),
        "<h2>Sources: rows removed</h2>",
        _sources(report),
        *_fields(report),
        f'<div class="grid"><div>{"".join(_thresholds(report))}</div><div>{"".join(_histograms(report))}</div></div>',
        *_common(report),
        *_doubtful(report, shown),
        *_pairs(shown),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Contamination: {escape(report.pair)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main>\n{chr(10).join(body)}\n</main></body></html>\n"
    )


def _rules(report: ContaminationReport) -> str:
    s = report.settings
    parts = []
    for mode in s["modes"]:
        if mode == "text":
            parts.append("text: an item whole")
        elif mode == "ngram":
            parts.append(f"n-grams of {s['ngram_size']}: more than {s['ngram_threshold']:g} of an item's tokens")
        else:
            parts.append(f"embeddings ({report.embedder}): {s['embedding_unit']} above {s['embedding_threshold']:g}")
    parts.append({"both": "prompts and answers", "prompt": "prompts", "answer": "answers"}[s["parts"]])
    if not s["remove_short"]:
        parts.append(f"items under {s['min_tokens']} tokens are reported and not removed for")
    parts.append(f"{report.engine} engine")
    return "; ".join(parts)


def _facts(report: ContaminationReport) -> str:
    items = sum(rate.items for rate in report.benchmarks)
    touched = sum(rate.touched for rate in report.benchmarks)
    share = f"{report.removed / report.rows:.2%} of the rows" if report.rows else ""
    facts = (
        (f"{report.rows:,}", "training rows"),
        (f"{report.documents:,}", "texts in them"),
        (f"{items:,}", "test items"),
        (f"{report.removed:,}", f"rows removed, {share}"),
        (f"{touched:,}", "test items found"),
    )
    cells = "".join(f'<div class="fact"><b>{a}</b><span>{b}</span></div>' for a, b in facts)
    return f'<div class="facts">{cells}</div>'


def _number(value: int) -> str:
    return f'<td class="zero">{value}</td>' if value == 0 else f"<td>{value:,}</td>"


def _table(head: Sequence[str], rows: Sequence[str]) -> str:
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f'<div class="scroll"><table><tr>{titles}</tr>{"".join(rows)}</table></div>'


def _benchmarks(report: ContaminationReport) -> str:
    kinds = list(report.benchmarks[0].found) if report.benchmarks else []
    rows = []
    for rate in report.benchmarks:
        asked = rate.items - rate.empty
        share = f"{rate.touched / asked:.2%}" if asked else ""
        cells = "".join(_number(rate.found[kind]) for kind in kinds)
        rows.append(
            f"<tr><td>{escape(rate.benchmark)}</td>{_number(asked)}{_number(rate.short)}{cells}"
            f"{_number(rate.touched)}<td>{share}</td>{_number(rate.short_touched)}</tr>"
        )
    return _table(["benchmark", "items", "short", *(NAMES[k] for k in kinds), "any", "share", "of them short"], rows)


def _sources(report: ContaminationReport) -> str:
    kinds = list(report.sources[0].found) if report.sources else []
    rows = []
    for rate in report.sources:
        cells = "".join(_number(rate.found[kind]) for kind in kinds)
        share = f"{rate.removed / rate.rows:.2%}" if rate.rows else ""
        rows.append(
            f'<tr><td class="wrap">{escape(rate.source)}</td>{_number(rate.rows)}{cells}{_number(rate.removed)}'
            f"<td>{share}</td></tr>"
        )
    return _table(["source", "rows", *(NAMES[k] for k in kinds), "removed", "share"], rows)


def _unasked(report: ContaminationReport) -> list[str]:
    lines = []
    for rate in report.benchmarks:
        if rate.empty:
            ids = escape(", ".join(report.unasked[rate.benchmark]))
            lines.append(
                f"<details><summary>{escape(rate.benchmark)}: {rate.empty:,} of {rate.items:,} items were not asked "
                f"for, since they have no text</summary><p>{ids}</p></details>"
            )
        if rate.partial:
            name = escape(rate.benchmark)
            lines.append(f'<p class="soft">{name}: {rate.partial:,} items have an empty field; the others serve.</p>')
    return lines


def _fields(report: ContaminationReport) -> list[str]:
    if not report.fields:
        return []
    titles = {"prompt": "prompt", "answer": "answer", "": "not read"}
    rows = []
    for use in report.fields:
        unsure = "" if use.known else " <span class=soft>(its name says neither; read as a prompt)</span>"
        name = f"{escape(use.field)}{unsure}"
        rows.append(f'<tr><td class="wrap">{name}</td><td>{titles[use.part]}</td>{_number(use.rows)}</tr>')
    return ["<h2>Fields of the training rows that hold text</h2>", _table(["field", "read as", "rows"], rows)]


def _thresholds(report: ContaminationReport) -> list[str]:
    if not report.steps:
        return []
    now = {"ngram": report.settings["ngram_threshold"], "embedding": report.settings["embedding_threshold"]}
    rows = []
    for step in report.steps:
        mark = ' class="now"' if step.threshold == now.get(step.kind) else ""
        rows.append(
            f"<tr{mark}><td>{escape(NAMES[step.kind])} above {step.threshold:g}</td>{_number(step.touched)}"
            f"{_number(step.removed)}</tr>"
        )
    return ["<h2>Other thresholds</h2>", _table(["threshold", "items found", "rows removed by it alone"], rows)]


def _histograms(report: ContaminationReport) -> list[str]:
    out = []
    for kind, (edges, counts) in report.histogram.items():
        most = max([1, *counts])
        rows = []
        for low, high, count in zip(edges, edges[1:], counts, strict=False):
            bar = f'<span class="bar" style="width:{100 * log1p(count) / log1p(most):.1f}%"></span>'
            rows.append(f'<tr><td>{low:g} to {high:g}</td>{_number(count)}<td class="bars">{bar}</td></tr>')
        out.append(f"<h2>Test items by their best score: {escape(NAMES[kind])}</h2>")
        out.append(_table(["score", "items", "on a log scale"], rows))
    return out


def _common(report: ContaminationReport) -> list[str]:
    if report.common_limit is None or not report.common:
        return []
    rows = [
        f'<tr><td class="wrap">{escape(c.ngram)}</td>{_number(c.documents)}{_number(c.unrelated)}</tr>'
        for c in report.common
    ]
    return [
        "<h2>Common n-grams</h2>",
        f'<p class="soft">An n-gram counts for half where it stands in {report.common_limit:,} unrelated training '
        f"texts, or in {TEMPLATE} other test texts, and for less where there are more: {report.common_total:,} n-grams "
        "count for less than half. Within a longer run that both sides share they count for more, in full from "
        f"{report.settings['common_run']} tokens on.</p>",
        f"<details><summary>the most common {len(rows)}</summary>"
        f"{_table(['n-gram', 'training texts', 'unrelated texts'], rows)}</details>",
    ]


def _doubtful(report: ContaminationReport, shown: Listed) -> list[str]:
    if not shown.doubted:
        return []
    low = report.settings["ngram_threshold"]
    count = len(shown.doubtful)
    some = f" Shown: {count:,} of {shown.doubted:,}, drawn evenly." if shown.doubted > count else ""
    return [
        "<h2>Doubtful pairs</h2>",
        f'<p class="soft">Rows that were removed since n-grams cover {low:g} to {low + DOUBT:g} of a test item, the '
        f"weakest first. Some may share its wording by chance; a higher threshold would keep them.{some}</p>",
        *map(_pair, shown.doubtful),
    ]


def _pairs(shown: Listed) -> list[str]:
    if not shown.total:
        return ["<h2>Pairs</h2>", "<p>Nothing was found.</p>"]
    rest = shown.total - shown.doubted
    count = len(shown.strongest)
    more = f" The strongest {count:,} of {rest:,}; all are in {EVIDENCE}." if rest > count else ""
    return [
        f"<h2>{'Other pairs' if shown.doubted else 'Pairs'}</h2>",
        f'<p class="soft">What both sides share is marked.{more}</p>',
        *map(_pair, shown.strongest),
    ]


def _pair(one: Evidence) -> str:
    tag, name = ("removed", "tag") if one.removes else ("reported", "tag kept")
    reason = " (short item)" if one.short and not one.removes else ""
    score = "" if one.mode in ("text", "contained") else f" {one.score:.3f} {one.unit}"
    fields = "".join(_side(field) for field in one.fields)
    return (
        f'<section class="pair"><div class="head"><span class="{name}">{tag}{reason}</span>'
        f"<b>{escape(NAMES[one.mode])}{escape(score)}</b>"
        f'<span class="soft">{escape(one.source)}, row {one.row:,}, {one.part}</span></div>'
        f'<div class="sides"><div class="side"><h3>training text</h3>{_side(one.document)}</div>'
        f'<div class="side"><h3>{escape(one.benchmark)}, item {escape(one.item)}</h3>{fields}</div></div></section>'
    )


def _side(shown: Shown) -> str:
    parts, at = [], 0
    for start, end in shown.spans:
        parts += [escape(shown.text[at:start]), f"<mark>{escape(shown.text[start:end])}</mark>"]
        at = end
    parts.append(escape(shown.text[at:]))
    if not shown.whole:
        parts = ["… ", *parts, " …"]
    return f'<div class="text" dir="auto">{"".join(parts)}</div>'
