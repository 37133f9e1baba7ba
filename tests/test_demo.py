"""The demo's small twin, from nothing to the page."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_line import Diagline

from diagline import bundle as bundles


def test_the_demo_goes_from_nothing_to_a_page_with_everything_on_it(diagline: Diagline, tmp_path: Path) -> None:
    output = tmp_path / "demo"
    outcome = diagline("demo", "--tiny", "--output", output)
    assert outcome.code == 0, outcome.err
    assert "next:" in outcome.err and "diagline bench" in outcome.err
    assert set(bundles.read(output / "demo.bundle").manifest.formats) == {"onnx_fp32", "onnx_int8", "tflite_int8"}
    page = (output / "report.html").read_text()
    for heading in ("Good parts", "Generated defects", "Worst misses", "Curves", "Latency", "The camera loop"):
        assert heading in page
    assert page.count("data:image/jpeg") > 20 and page.count("data:image/svg+xml") == 2
    film = json.loads((output / "film.json").read_text())
    verdicts = [json.loads(line) for line in (output / "run" / "verdicts.jsonl").read_text().splitlines()]
    frames = film["frames"] if isinstance(film, dict) else film
    assert len(verdicts) == len(frames)
    assert not list(output.rglob(".*"))

    before = (output / "teacher" / "teacher.pt").stat().st_mtime_ns
    assert diagline("demo", "--tiny", "--output", output).code == 0
    assert (output / "teacher" / "teacher.pt").stat().st_mtime_ns == before, "a second run trains again"
