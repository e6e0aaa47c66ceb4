"""The table of goals, the figures as JSON, and the chart of them."""

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.figures import Verdict

ROOT = Path(__file__).parent.parent
COMMITTED = ROOT / "docs" / "benchmarks"
SCRATCH = ROOT / ".tools" / "benchmarks"  # ignored by git

CAPTION = "right of the line is better than asked; either half is a factor of four"
BAR, ROW, LABELS, CHART = 14, 26, 430, 300  # pixels


def report(verdicts: Mapping[str, Sequence[Verdict]], *, write: bool) -> None:
    """Print the table; write results.json and goals.svg, to docs/ where `write` says so."""
    every = [verdict for group in verdicts.values() for verdict in group]
    print("\n| goal | measured | |\n|---|---|---|")
    for verdict in every:
        figure = f"{verdict.median:.3g} ({min(verdict.measured):.3g}-{max(verdict.measured):.3g})"
        met = "met" if verdict.met else "**not met**"
        print(f"| {verdict.question}: {verdict.goal} | {figure} | {met} |")
    folder = COMMITTED if write else SCRATCH
    folder.mkdir(parents=True, exist_ok=True)
    results = {"machine": machine(), "questions": {k: _plain(v) for k, v in verdicts.items()}}
    text = json.dumps(results, indent=1, ensure_ascii=False)
    (folder / "results.json").write_text(text + "\n")
    (folder / "goals.svg").write_text(chart(every))
    print(f"\nwritten: {folder / 'results.json'} and goals.svg")


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    model, memory = platform.processor(), 0
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].split(":")[1].strip() if lines else model
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": model,
        "cpus": os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
        "versions": {name: version(name) for name in ("grpcio", "protobuf", "asyncpg", "uvloop")},
    }


def _plain(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    return [
        {
            "question": verdict.question,
            "goal": verdict.goal,
            "median": _round(verdict.median),
            "rounds": [_round(value) for value in verdict.measured],
            "met": verdict.met,
            "sides": {name: _round(value) for name, value in verdict.sides.items()},
            "note": verdict.note,
        }
        for verdict in verdicts
    ]


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def chart(verdicts: Sequence[Verdict]) -> str:
    """Return horizontal bars of how far each goal is met, on a scale of factors of two."""
    height = ROW * len(verdicts) + 50
    width = LABELS + CHART + 150
    rows = [row for index, verdict in enumerate(verdicts) for row in _bar(verdict, index)]
    goal = LABELS + CHART // 2
    lines = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">',
        "<style>text { font: 12px sans-serif }</style>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{goal}" y="18" text-anchor="middle">goal</text>',
        *rows,
        f'<line x1="{goal}" y1="24" x2="{goal}" y2="{height - 22}" stroke="#444444"/>',
        f'<text x="{LABELS}" y="{height - 6}">{CAPTION}</text>',
        "</svg>",
    )
    return "\n".join(lines) + "\n"


def _bar(verdict: Verdict, index: int) -> tuple[str, str, str]:
    share = min(4.0, max(0.25, verdict.share))
    length = round(CHART * (0.5 + math.log2(share) / 4))
    top = 30 + ROW * index
    colour = "#2f7d4f" if verdict.met else "#b3392f"
    figure = f"{verdict.median:.3g} {verdict.unit} ({verdict.goal})"
    question = escape(verdict.question)
    return (
        f'<text x="{LABELS - 8}" y="{top + 11}" text-anchor="end">{question}</text>',
        f'<rect x="{LABELS}" y="{top}" width="{max(2, length)}" height="{BAR}" fill="{colour}"/>',
        f'<text x="{LABELS + max(2, length) + 6}" y="{top + 11}">{escape(figure)}</text>',
    )
