"""`diagline demo`: the whole line on parts it paints itself, ending with one page.

Defect-free surfaces, MemSeg defects, teacher, student, bundle, film, camera loop, benchmark:
each step is the function the command of the same name calls. A second run goes on from what
is there. Leaves out: any claim about a real line; the parts are painted.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from diagline import config as configs
from diagline import files, pages, samples, verbs
from diagline.config import Config
from diagline.console import command, console
from diagline.errors import ConfigError
from diagline.record import provenance

COUNTS = {"train": (160, 0), "val": (48, 0), "test": (120, 80)}
TINY_COUNTS = {"train": (12, 0), "val": (6, 0), "test": (8, 8)}
FILM_PARTS, TINY_FILM_PARTS = 40, 4


def demo(output: Path, overrides: tuple[str, ...], tiny: bool) -> Path:
    """Run the whole line into `output`; returns the page.

    Args:
        output: folder of everything the demo writes.
        overrides: `section.key=value` strings over `configs/demo.toml`.
        tiny: the config's small twin, for tests.

    Raises:
        DiaglineError: as the stages do.
    """
    started = time.monotonic()
    parts = output / "parts"
    here = (f'output="{output}"', f'data.root="{parts}"')
    config = configs.load(_config_path(), (*here, *overrides), tiny)
    _paint_parts(parts, config, TINY_COUNTS if tiny else COUNTS)
    verbs.generate(config)
    verbs.train(config)
    verbs.distill(config)
    verbs.export(config)
    film = _inspect_film(config, TINY_FILM_PARTS if tiny else FILM_PARTS)
    bench = _bench(config, seconds=0.2 if tiny else 2.0)
    found = verbs.evaluate(config)
    page = output / "report.html"
    note = (
        "The parts are painted by a program: these figures show that every stage works, not how a real line would fare."
    )
    verbs.write_page(page, config, verbs.real_data(config), found, pages.Extra(bench, film, note))
    console.print(pages.side_by_side(found))
    console.print(f"done in {time.monotonic() - started:.0f} s; page: {page}\n\nnext:", soft_wrap=True)
    unsigned = " --allow-unsigned" if config.signing_key is None else ""
    for words in (
        f"run {config.bundle} --source {output / 'film.mp4'}{unsigned}",
        f"bench {config.bundle}{unsigned}",
        "data inspect FOLDER        # your own pictures: good/ and bad/, MVTec, KSDD2, split.csv, ...",
    ):
        console.print(f"  {command()} {words}", soft_wrap=True)
    return page


def _config_path() -> Path:
    here = Path(__file__).parent
    for path in (here / "demo.toml", here.parent / "configs" / "demo.toml"):  # wheel, checkout
        if path.is_file():
            return path
    raise ConfigError(f"{here / 'demo.toml'}: not found; expected the demo's config; install diagline again")


def _paint_parts(target: Path, config: Config, counts: dict[str, tuple[int, int]]) -> None:
    from generation import surfaces

    asked = {
        "seed": config.seed,
        "counts": {split: list(pair) for split, pair in counts.items()},
        "input": config.plain()["input"],
    }
    marker = target.parent / "parts.json"
    if marker.is_file() and json.loads(marker.read_text()) == asked and (target / samples.RECORDS).is_file():
        return
    surfaces.write_parts(target, config.seed, counts, config.input.height_px * 2, config.input.width_px * 2)
    files.write_json(marker, asked)


def _inspect_film(config: Config, parts: int) -> str:
    """Render the film, run the camera loop over it, and say in one line what it found."""
    from diagline import bundle as bundles
    from edge_runtime import loop
    from edge_runtime.camera import open_camera
    from generation import surfaces

    film = config.output / "film.mp4"
    truth = surfaces.render_film(film, config.seed + 1, parts, config.input.height_px * 2, config.input.width_px * 2)
    inspector = loop.open_inspector(bundles.read(config.bundle), config.run.format, config.run.threads)
    kept: list[Any] = []
    log = config.output / "run" / "verdicts.jsonl"
    log.unlink(missing_ok=True)
    with open_camera(str(film), config.run.timeout_s, realtime=False) as camera:
        counts = loop.run(inspector, camera, [*loop.sinks(log, quiet=True), kept.append], None)
    shown = [(entry, verdict) for entry, verdict in zip(truth, kept, strict=True) if not entry["transition"]]
    bad = [verdict.opens_gate for entry, verdict in shown if entry["label"] == samples.DEFECT]
    good = [verdict.opens_gate for entry, verdict in shown if entry["label"] == samples.GOOD]
    return (
        f"{counts}. Of {len(bad)} frames that show a defect {len(bad) - sum(bad)} were rejected; "
        f"of {len(good)} that show a good part {len(good) - sum(good)} were."
    )


def _bench(config: Config, seconds: float) -> Any:
    from diagline import bundle as bundles
    from edge_runtime.bench import measure as bench
    from edge_runtime.bench import table as bench_table

    result = bench.bench(bundles.read(config.bundle), bundles.read(config.teacher_bundle), (1, 2), seconds)
    files.write_json(config.output / "bench.json", {**bench.to_json(result), "provenance": provenance(config, "")})
    return bench_table.to_cells(result)
