"""The benchmark shows every format, engine and thread count, and hides no slow frame."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from diagline.bundle import Bundle
from diagline.errors import BundleError
from edge_runtime.bench import MIN_FRAMES, STAGES, BenchResult, Latency, bench, to_cells, to_json, to_table


@pytest.fixture(scope="module")
def result(bundle: Bundle, make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> BenchResult:
    teacher = make_bundle(tmp_path_factory.mktemp("teacher") / "t.bundle", network="teacher")
    return bench(bundle, teacher, (1, 2), 0.0)


def test_every_format_engine_and_thread_count_has_a_row_and_the_reference_comes_last(
    result: BenchResult, bundle: Bundle
) -> None:
    expected = [
        (network, name, engine, threads)
        for network in ("student", "ResNet-50")
        for name, fmt in bundle.manifest.formats.items()
        for engine in fmt.engines
        for threads in (1, 2)
    ]
    assert [(row.network, row.format, row.engine, row.threads) for row in result.rows] == expected
    for row in result.rows:
        assert row.ap == 0.75
        assert row.size_bytes == bundle.path(row.format).stat().st_size
        assert row.frames == MIN_FRAMES
        for latency in (row.preprocess, row.inference, row.whole):
            figures = (latency.p50, latency.p90, latency.p99, latency.p999, latency.max)
            assert figures[0] > 0 and list(figures) == sorted(figures)
        assert row.whole.p50 > max(row.inference.p50, row.preprocess.p50)


def test_the_slowest_frame_is_in_the_figures() -> None:
    latency = Latency.of([1_000_000] * 999 + [50_000_000])
    assert (latency.p50, latency.p99, latency.max) == (1.0, 1.0, 50.0)
    assert Latency.of([1_000_000] * 99 + [50_000_000]).p999 == 50.0


def test_the_result_goes_through_json_and_names_the_machine(result: BenchResult, bundle: Bundle) -> None:
    found = json.loads(json.dumps(to_json(result)))
    assert found["bundle"] == bundle.model
    assert found["machine"]["cores"] >= 1 and found["versions"]["numpy"]
    assert found["rows"][0]["whole"]["p999"] == result.rows[0].whole.p999


def test_the_table_shows_every_stage_of_every_row(result: BenchResult) -> None:
    head, cells = to_cells(result)
    assert len(cells) == len(result.rows) * len(STAGES)
    assert {len(row) for row in cells} == {len(head)}
    shown = io.StringIO()
    Console(width=160, file=shown).print(to_table(result))
    for word in ("onnx_int8", "litert", "ResNet-50", "p99.9", "0.750", "whole", "cores", result.bundle):
        assert word in shown.getvalue()


def test_a_bundle_that_fails_its_golden_vectors_is_not_timed(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="self-test failed"):
        bench(make_bundle(tmp_path / "false.bundle", shift=-5.0), None, (1,), 0.0)
