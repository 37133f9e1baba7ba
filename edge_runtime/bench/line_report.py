"""A bench of a line for people and machines: a folder of `bench.json`, `bench.md`, `bench.svg` and `parts.csv`.

Leaves out: measuring (`line.py`) and drawing (`line_picture.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from diagline import files
from diagline.errors import OutputError
from edge_runtime import recent
from edge_runtime.bench import line_picture
from edge_runtime.bench.line import LineResult, LoadResult
from edge_runtime.bench.table import facts, short
from edge_runtime.bench.witness import COLUMNS, STAGES, STATES, Run

HEAD = ("stage", "parts", "p50", "p90", "p99", "p99.9", "max")


def to_json(result: LineResult) -> dict[str, Any]:
    """The result as plain data, without its single parts; latencies in ms."""
    plain = asdict(result)
    for load in plain["loads"]:
        del load["run"]["parts"]
    return plain


def to_table(result: LineResult) -> Table:
    """The loads for a terminal of 80 columns."""
    table = Table(title="\n".join(_about(result)), title_justify="left", title_style="", box=box.SIMPLE_HEAD, padding=0)
    for name in HEAD:
        table.add_column(name, justify="left" if name == HEAD[0] else "right", no_wrap=True)
    for load in result.loads:
        table.add_row(load.run.load)
        for cells in _figures(load.run):
            table.add_row(f"  {cells[0]}", *cells[1:])
        table.add_section()
    return table


def said(result: LineResult) -> Iterator[str]:
    """What the figures must not be read without, a line each."""
    if result.interrupted:
        yield "STOPPED before its time: this is what was measured until then"
    for load in result.loads:
        yield from (f"{load.run.load}: {text}" for text in _said(load))


def to_markdown(result: LineResult) -> str:
    """The result as a page that shows `bench.svg` beside it."""
    lines = [f"# {result.line} under load", "", *(f"- {text}" for text in _about(result)), ""]
    lines += ["Not as on the line:", "", *(f"- {text}" for text in result.stands_in), ""]
    if result.interrupted:
        lines += [f"**{next(said(result))}**", ""]
    lines += ["![Latency over percentiles and over time](bench.svg)", ""]
    lines += ["Latencies in ms; whole: from the trigger until gate, PLC, archive and spools have the verdict.", ""]
    for load in result.loads:
        lines += [f"## {load.run.load}", "", *_row(HEAD), *_row(("---", *["---:"] * (len(HEAD) - 1)))]
        lines += [text for cells in _figures(load.run) for text in _row(cells)]
        lines += ["", *(f"- {text}" for text in _said(load)), ""]
    return "\n".join(lines)


def check(folder: Path) -> None:
    """Refuse a folder that is there: no result is written over.

    Raises:
        OutputError: it is.
    """
    if folder.exists() or folder.is_symlink():
        raise OutputError(f"{folder}: is there already; expected a new folder for the result; name another")


def write(folder: Path, result: LineResult) -> None:
    """Write the folder in one step.

    Raises:
        OutputError: it is there already, or cannot be written.
    """
    check(folder)
    with files.folder_aside(folder) as aside:
        files.write_json(aside / "bench.json", to_json(result))
        files.write_text(aside / "bench.md", to_markdown(result))
        files.write_text(aside / "bench.svg", line_picture.draw(result))
        files.write_text(aside / "parts.csv", "\n".join(_parts(result)) + "\n")


def _about(result: LineResult) -> Iterator[str]:
    yield f"{result.bundle}, {result.format} on {result.engine}, {result.precision}, {result.threads} threads"
    yield from facts(result.machine, result.versions)
    yield f"deadline {result.deadline_ms:g} ms, at most {result.most_open} open parts, load {result.load_1min:g}"


def _said(load: LoadResult) -> Iterator[str]:
    run = load.run
    yield _counts(run)
    for name, count in run.causes.items():
        yield f"{count} NO_DECISION, {name}: {run.examples[name]}"
    if run.lag is not None:
        lag = f"p50 {short(run.lag.p50)}, p99 {short(run.lag.p99)}, max {short(run.lag.max)} ms"
        yield f"parts were pulled later than due by {lag}, which is in their latencies"
    if load.warm_up.latency is not None:
        whole = load.warm_up.latency
        yield f"warm-up, apart: {load.warm_up.parts} parts, p50 {short(whole.p50)}, max {short(whole.max)} ms"
    if load.gate is not None:
        yield "gate, warm-up included: " + ", ".join(f"{count} {did}" for did, count in load.gate.items() if count)
    for cause, count in load.lost.items():
        yield f"{count} not kept by {cause}"
    for name, count in load.failures.items():
        yield f"{name} raised {count} times: its latency proves nothing"


def _counts(run: Run) -> str:
    states = ", ".join(f"{count} {state}" for state, count in run.states.items())
    rate = f"{(run.pulled - run.unanswered) / run.seconds:.1f} a second" if run.seconds else "none a second"
    unanswered = f", {run.unanswered} WITHOUT A VERDICT" if run.unanswered else ""
    share = f" ({run.missed / run.pulled:.2%})" if run.missed else ""
    return f"{run.pulled} parts, {states}{unanswered}; {run.missed} missed deadlines{share}; {rate}"


def _figures(run: Run) -> Iterator[tuple[str, ...]]:
    for name, stage in run.stages.items():
        at = stage.latency
        figures = ("-",) * 5 if at is None else map(short, (at.p50, at.p90, at.p99, at.p999, at.max))
        yield (name, str(stage.parts), *figures)


def _row(cells: tuple[str, ...]) -> Iterator[str]:
    yield "| " + " | ".join(cells) + " |"


def _parts(result: LineResult) -> Iterator[str]:
    """Every part of every run: when it was due, from the run's first; its stages, empty where it did not pass one."""
    yield ",".join(("run", "part", "due_ms", *(f"{name}_ms" for name in STAGES), "state", "cause"))
    for number, run in enumerate((load.run for load in result.loads), 1):
        first_ns = run.parts[:, COLUMNS.index("due_ns")].min()
        for part, due_ns, *took_ns, state, cause in run.parts.tolist():
            stages = ",".join("" if ns < 0 else f"{ns / 1e6:.6f}" for ns in took_ns)
            named = recent.CAUSES[cause] if cause >= 0 else ""
            yield f"{number},{part},{(due_ns - first_ns) / 1e6:.3f},{stages},{STATES[state].value},{named}"
