"""The benchmark shows every format, engine and thread count, hides no slow frame, and records what is fastest."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from diagline import bundle as bundles
from diagline.bundle import Bundle
from diagline.errors import BundleError, DatasetError
from diagline.samples import Sample, SampleSet, write_image
from edge_runtime.bench import measure as room
from edge_runtime.bench.accuracy import Accuracy, check, pictures_of
from edge_runtime.bench.measure import MIN_FRAMES, STAGES, BenchResult, Latency, bench, fastest, record_fastest, to_json
from edge_runtime.bench.table import to_cells, to_table
from edge_runtime.engines.engine import OPENVINO_BF16


@pytest.fixture(scope="module")
def result(bundle: Bundle, make_bundle: Callable[..., Bundle], tmp_path_factory: pytest.TempPathFactory) -> BenchResult:
    teacher = make_bundle(tmp_path_factory.mktemp("teacher") / "t.bundle", network="teacher")
    return bench(bundle, teacher, (1, 2), 0.0)


def test_every_format_engine_and_thread_count_has_a_row_and_the_reference_stands_last_on_its_fastest(
    result: BenchResult, bundle: Bundle
) -> None:
    expected = [
        ("student", name, engine, name.partition("_")[2], threads)
        for name, fmt in bundle.manifest.formats.items()
        for engine in fmt.engines
        for threads in (1, 2)
    ]
    assert [(row.network, row.format, row.engine, row.precision, row.threads) for row in result.rows[:-2]] == expected
    assert [(row.network, row.threads) for row in result.rows[-2:]] == [("ResNet-50", 1), ("ResNet-50", 2)]
    for row in result.rows[-2:]:
        others = [one for one in result.tried if one.threads == row.threads]
        assert {(one.format, one.engine) for one in [row, *others]} == {(one[1], one[2]) for one in expected}
    assert result.skipped == ()
    for row in result.rows:
        assert row.accuracy == Accuracy(0.75, None, None)
        assert row.size_bytes == bundle.path(row.format).stat().st_size
        assert row.frames == MIN_FRAMES
        for latency in (row.preprocess, row.inference, row.whole):
            figures = (latency.p50, latency.p90, latency.p99, latency.p999, latency.max)
            assert figures[0] > 0 and list(figures) == sorted(figures)
        assert row.whole.p50 > max(row.inference.p50, row.preprocess.p50)


def test_the_reference_has_the_row_of_whichever_is_faster(
    bundle: Bundle, make_bundle: Callable[..., Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each format in its turn is the only one that does not take a second."""
    teacher = make_bundle(tmp_path / "t.bundle", network="teacher")
    true_row = room._row
    for quick in teacher.manifest.formats:

        def timed(bundle: Bundle, pair: tuple[str, str], threads: int, seconds: float, quick: str = quick) -> room.Row:
            row = true_row(bundle, pair, threads, seconds)
            return row if row.format == quick else replace(row, inference=Latency(*[1000.0] * 5))

        monkeypatch.setattr(room, "_row", timed)
        found = bench(bundle, teacher, (1,), 0.0)
        assert (found.rows[-1].network, found.rows[-1].format) == ("ResNet-50", quick)


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
    assert len(cells) == len(result.rows) * len(STAGES) and all(len(row) == len(head) for row in cells)
    assert {len(row) for row in cells} == {len(head)}
    shown = drawn(result, 160)
    for word in ("onnx_int8", "litert, int8", "ResNet-50", "p99.9", "AP 0.750", "whole", "cores", result.bundle):
        assert word in shown
    assert "the bundle's own, measured at export" in shown


def drawn(result: BenchResult, width: int) -> str:
    shown = io.StringIO()
    Console(width=width, file=shown).print(to_table(result))
    return shown.getvalue()


def test_eighty_columns_hold_the_longest_row_whole(result: BenchResult) -> None:
    slow = Latency(*[1234.0] * 5)
    long = replace(
        result.rows[-1], network="ResNet-50", format="onnx_fp32", engine=OPENVINO_BF16, precision="bf16",
        size_bytes=94_200_000, accuracy=Accuracy(1.0, 1.0, 1.0), preprocess=slow, inference=slow, whole=slow,
    )  # fmt: skip
    shown = drawn(replace(result, rows=(long,)), 80)
    for word in (f"{OPENVINO_BF16}, bf16", "2 threads, 94.2 MB, AP 1.000", "escape 100.0%, overkill 100.0%", "1234"):
        assert word in shown
    assert "…" not in shown


LEVELS = {"dark": 10, "grey": 120, "bright": 250}


@pytest.fixture
def pictures(tmp_path: Path) -> SampleSet:
    """Ten pictures of which brightness misjudges three: a dark and a grey defect, a bright good part."""
    shown = [("dark", 0)] * 3 + [("bright", 0)] + [("bright", 1)] * 4 + [("grey", 1), ("dark", 1)]
    folder = tmp_path / "parts"
    samples = []
    for index, (level, label) in enumerate(shown):
        name = ("good", "bad")[label] + f"/{index}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, np.full((16, 16, 3), LEVELS[level], np.uint8))
        samples.append(Sample(name, None, label, "x" if label else "good", str(index), "test"))
    return SampleSet(folder, tuple(samples))


def test_accuracy_is_measured_through_each_engine_at_its_formats_threshold(bundle: Bundle, pictures: SampleSet) -> None:
    found = bench(bundle, None, (1,), 0.0, pictures)
    assert {(row.format, row.engine) for row in found.rows} == {
        (name, engine) for name, fmt in bundle.manifest.formats.items() for engine in fmt.engines
    }
    for row in found.rows:
        assert row.accuracy.escape == pytest.approx(2 / 6) and row.accuracy.overkill == pytest.approx(1 / 4)
        # by falling brightness: 4 of 5 bright are defects, then 5 of 6, then all 6 of 10
        assert row.accuracy.ap == pytest.approx((4 * 4 / 5 + 5 / 6 + 6 / 10) / 6)
    assert found.data is not None and found.data["data_hash"] == pictures.hash()
    assert (found.data["good"], found.data["defects"]) == (4, 6)
    assert "4 good and 6 defective" in " ".join(drawn(found, 160).split())


def test_a_format_that_is_judged_at_another_threshold_has_another_escape(
    make_bundle: Callable[..., Bundle], tmp_path: Path, pictures: SampleSet
) -> None:
    made = make_bundle(tmp_path / "x.bundle")
    formats = dict(made.manifest.formats)
    formats["onnx_fp32"] = replace(formats["onnx_fp32"], threshold=-1.0)  # lets no grey defect escape
    lower = bundles.write(
        made.root, replace(made.manifest, formats=formats), {n: made.path(n).read_bytes() for n in formats},
        [(vector, made.golden_frame(vector)) for vector in made.golden],
    )  # fmt: skip
    by_format = {row.format: row.accuracy.escape for row in bench(lower, None, (1,), 0.0, pictures).rows}
    assert by_format["onnx_fp32"] == pytest.approx(1 / 6) and by_format["onnx_int8"] == pytest.approx(2 / 6)


def test_pictures_of_one_class_are_refused(pictures: SampleSet) -> None:
    with pytest.raises(DatasetError, match="4 good and 0 defective"):
        check(pictures.labelled(0))


def test_a_folder_gives_its_test_split_where_it_says_one_and_all_of_it_otherwise(
    bundle: Bundle, pictures: SampleSet
) -> None:
    assert len(pictures_of(pictures.root, bundle)) == 10  # good/ and bad/ say nothing of splits
    head = "image,mask,label,kind,group,split\n"
    rows = [
        f"{sample.image},,{sample.label},{sample.kind},{sample.group},{'test' if int(sample.group) % 2 else 'train'}\n"
        for sample in pictures
    ]
    (pictures.root / "split.csv").write_text(head + "".join(rows))
    assert {sample.group for sample in pictures_of(pictures.root, bundle)} == {"1", "3", "5", "7", "9"}


def test_of_the_folder_it_was_exported_with_a_bundle_is_measured_on_the_test_split_alone(
    bundle: Bundle, pictures: SampleSet
) -> None:
    from diagline import layouts

    test = layouts.open_data(pictures.root, "good_bad", 7).split("test")
    manifest = replace(
        bundle.manifest, provenance={"config": {"seed": 7, "data": {}}}, metrics_split={"data_hash": test.hash()}
    )
    assert pictures_of(pictures.root, replace(bundle, manifest=manifest)) == test


def test_an_engine_that_is_not_installed_here_is_left_out_with_a_line(bundle: Bundle) -> None:
    formats = {
        name: replace(fmt, engines=(*fmt.engines, "abacus")) if name == "onnx_int8" else fmt
        for name, fmt in bundle.manifest.formats.items()
    }
    found = bench(replace(bundle, manifest=replace(bundle.manifest, formats=formats)), None, (1,), 0.0)
    assert [row.format for row in found.rows] == list(formats) and {row.engine for row in found.rows} == {
        "onnxruntime", "litert",
    }  # fmt: skip
    assert len(found.skipped) == 1 and "onnx_int8 on abacus is left out" in found.skipped[0]


def test_a_format_that_fails_its_golden_vectors_here_is_left_out_and_not_recorded(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    made = make_bundle(tmp_path / "x.bundle")
    golden = tuple(
        replace(vector, outputs={**vector.outputs, "tflite_int8": vector.outputs["tflite_int8"] - 60})
        for vector in made.golden
    )
    found = bench(replace(made, golden=golden), None, (2,), 0.0)
    assert [row.format for row in found.rows] == ["onnx_fp32", "onnx_int8"]
    assert "tflite_int8 on litert is left out: self-test failed" in found.skipped[0]


def rows(bundle: Bundle, result: BenchResult, p50: dict[tuple[str, str, int], float]) -> BenchResult:
    """The result with rows of these p50 alone."""
    made = []
    for (format_name, engine, threads), value in p50.items():
        changes = {"format": format_name, "engine": engine, "threads": threads, "model": bundle.model}
        made.append(replace(result.rows[0], **changes, inference=Latency(value, value, value, value, value)))
    return replace(result, rows=tuple(made))


def test_the_fastest_is_by_inference_at_the_threads_of_the_line_and_never_bf16_or_the_reference(
    result: BenchResult, bundle: Bundle
) -> None:
    timed = rows(
        bundle, result,
        {
            ("onnx_fp32", "onnxruntime", 2): 3.0,
            ("onnx_int8", "onnxruntime", 2): 2.0,
            ("tflite_int8", "litert", 2): 4.0,
            ("tflite_int8", "litert", 1): 0.5,
            ("onnx_fp32", OPENVINO_BF16, 2): 1.0,
        },
    )  # fmt: skip
    reference = replace(timed.rows[0], model="teacher@0", inference=Latency(*[0.1] * 5))
    timed = replace(timed, rows=(*timed.rows, reference))
    assert (fastest(bundle, timed, 2).format, fastest(bundle, timed, 1).format) == ("onnx_int8", "tflite_int8")
    with pytest.raises(BundleError, match="no row at 3 threads"):
        fastest(bundle, timed, 3)


def test_in_a_certified_bundle_the_fastest_is_of_the_certified_engines(result: BenchResult, bundle: Bundle) -> None:
    timed = rows(
        bundle, result,
        {("tflite_int8", "openvino", 2): 1.0, ("tflite_int8", "litert", 2): 2.0, ("onnx_int8", "openvino", 2): 1.5},
    )  # fmt: skip
    issued = {"formats": {"tflite_int8": {"engine": "litert"}, "onnx_int8": {"engine": "onnxruntime"}}}
    certified = replace(bundle, manifest=replace(bundle.manifest, certificate=issued))
    assert fastest(bundle, timed, 2).engine == "openvino"
    assert fastest(certified, timed, 2).engine == "litert"


def test_recording_changes_the_fastest_and_nothing_else(
    make_bundle: Callable[..., Bundle], result: BenchResult, tmp_path: Path
) -> None:
    made = make_bundle(tmp_path / "x.bundle")
    before = {path: path.read_bytes() for path in made.root.rglob("*") if path.is_file()}
    row = next(row for row in result.rows if row.format == "onnx_int8")
    again = record_fastest(made, row)
    assert again == bundles.read(made.root)
    assert again.manifest == replace(made.manifest, fastest=("onnx_int8", "onnxruntime"))
    assert again.golden == made.golden
    after = {path: path.read_bytes() for path in made.root.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    changed = {path.name for path in after if after[path] != before[path]}
    assert changed == {bundles.MANIFEST, bundles.SEAL}


def test_a_bundle_that_fails_its_golden_vectors_is_not_timed(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="self-test failed"):
        bench(make_bundle(tmp_path / "false.bundle", shift=-5.0), None, (1,), 0.0)
