"""`decontaminate`: the gate applied to the generated pairs, with its evidence and a report of both pairs by name.

The pairs are the data against the benchmarks, and the validation items against the benchmarks: who reads a score has to
know of either. Test items that something which was used still matches are listed, so that each benchmark can be scored
on the others too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from decontam.engines import open_engine
from harness.costs.estimator import Estimator
from harness.costs.lengths import TEST_PROMPT
from harness.costs.records import Before, Cost, Load
from harness.shards import ShardOutput
from harness.stage import Stage, StageRun
from harness.types import Sample
from methods.plan import Plan
from methods.stages.gate import Gate, gate_settings, prompt_gate
from methods.stages.sources import GuideRow
from methods.stages.synthesis import ALONE, Round


def decontaminate(plan: Plan, samples: Stage, source: Stage, round_: Round = ALONE) -> Stage:
    """The generated pairs that passed the gate as main table, what matched as side table `evidence`.

    In a round of a loop those of the rounds before come first, so that a repeat of them goes.
    """

    def work(run: StageRun) -> Mapping[str, Any]:
        pool = [*round_.earlier(run), *run.records(samples.name, Sample)]
        guides = run.records(source.name, GuideRow, "validation")
        backend = open_engine(plan.config.decontam, scratch=run.folder)
        try:
            gate = Gate(run, plan, backend=backend)
            gated = gate.accept(pool)
        finally:
            backend.close()
        guide = f"validation set {plan.config.guide.set}"
        guide_check = prompt_gate(run, plan, None).look(guides, guide) if guides else None
        checks = [c for c in (gated.checked, guide_check) if c is not None]
        evidence = [hit for c in checks for hit in c.hits]
        run.write(0, ShardOutput(gated.kept, gated.rejects, tables={"evidence": evidence}, rows_in=len(pool)), 0.0)
        touched: dict[str, set[str]] = {}
        for found in (c.kept_touched if c is gated.checked else c.report.touched for c in checks):
            for benchmark, items in found.items():
                touched.setdefault(benchmark, set()).update(items)
        return {
            "contamination": [c.report.to_json() for c in checks],
            "touched": {name: sorted(items) for name, items in touched.items()},
        }

    def estimate(e: Estimator, before: Before) -> Cost | None:
        made = _both(before[samples.name], before[round_.prior.name]) if round_.prior else before[samples.name]
        if made is None:
            return None
        note = f"duplicates and test text ({', '.join(plan.config.decontam.modes)}) go"
        if "embedding" not in plan.config.decontam.modes:
            return Cost(rows=made.out, out=made.out, note=note)
        # Test items of benchmarks that do not declare their number are left out.
        items = sum(benchmark.rows.expected_count or 0 for benchmark in plan.suite.benchmarks)
        return e.embedded(made.out, (made.out or 0) * e.sizes.pair + items * TEST_PROMPT, note)

    return Stage(
        name="decontaminate",
        version=1,
        settings=gate_settings(plan),
        inputs=(samples, source, *([round_.prior] if round_.prior else [])),
        work=work,
        kind="gated",
        estimate=estimate,
        loads=lambda sizer: Load("decontamination", tuple(sizer.gates())),
    )


def _both(made: Cost | None, earlier: Cost | None) -> Cost | None:
    """The pairs of a round with those before it; None where either number is not known."""
    if made is None or earlier is None or made.out is None or earlier.out is None:
        return None
    return Cost(rows=None, out=made.out + earlier.out)
