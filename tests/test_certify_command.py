"""`diagline certify` as a user meets it: a bundle with its certificate, or the bundle as it was and one clear line."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_line import Diagline, Line, Outcome, refused

from diagline import bundle as bundles
from diagline import files
from diagline.config_train import CertifyConfig
from diagline.errors import BundleError, ParityError
from diagline.samples import Sample, SampleSet
from export.parity import threshold_for

LOOSE = ("--escape", "0.95", "--overkill", "0.95", "--confidence", "0.6")
STRICT = ("--escape", "0.4", "--overkill", "0.4", "--confidence", "0.6")


class Copy:
    """A copy of the tiny line that a test may change."""

    def __init__(self, line: Line, root: Path, diagline: Diagline) -> None:
        self.output, self.line, self._diagline = root / "out", line, diagline
        shutil.copytree(line.output, self.output)

    @property
    def bundle(self) -> Path:
        return self.output / "tiny.bundle"

    @property
    def folder(self) -> Path:
        return self.output / "certificate"

    def certify(self, *options: object) -> Outcome:
        return self._diagline("certify", self.line.config, "--set", f'output="{self.output}"', *options)


@pytest.fixture
def copy(line: Line, tmp_path: Path, diagline: Diagline) -> Copy:
    return Copy(line, tmp_path, diagline)


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): files.sha256_file(path) for path in folder.rglob("*") if path.is_file()
    }


def test_a_certified_bundle_carries_thresholds_figures_and_the_data_they_rest_on(
    copy: Copy, diagline: Diagline
) -> None:
    before = bundles.read(copy.bundle)
    outcome = copy.certify(*LOOSE, "--json")
    assert outcome.code == 0, outcome.err
    issued = json.loads(outcome.out)
    after = bundles.read(copy.bundle)
    assert after.manifest.certificate == issued and after.sha256 != before.sha256
    assert issued["targets"] == {"escape": 0.95, "overkill": 0.95, "confidence": 0.6}
    assert issued["evidence"]["data_hash"] == after.manifest.metrics_split["data_hash"]
    defects, good = issued["evidence"]["defects"], issued["evidence"]["good"]
    assert (defects, good) == (after.manifest.metrics_split["defects"], after.manifest.metrics_split["good"])
    assert set(issued["formats"]) == set(bundles.FORMATS)
    for name, entry in issued["formats"].items():
        fmt, old = after.manifest.formats[name], before.manifest.formats[name]
        assert entry["threshold"] == fmt.threshold and entry["threshold_logit"] == fmt.to_logit(fmt.threshold)
        assert isinstance(fmt.threshold, int if fmt.output_dtype == "int8" else float)
        assert fmt.metrics["threshold"] == entry["threshold_logit"] and fmt.metrics["ap"] == old.metrics["ap"]
        assert fmt.metrics["escape"] == pytest.approx(entry["escape"]["wrong"] / defects)
        assert fmt.metrics["overkill"] == pytest.approx(entry["overkill"]["wrong"] / good)
        assert entry["sha256"] == files.sha256_file(after.path(name)) == files.sha256_file(before.path(name))
        assert entry["escape"]["bound"] <= 0.95 and f"from {defects} real defects" in entry["says"]
        assert f"{name}, certified" in outcome.err
    assert after.manifest.flips["onnx_fp32"] == 0
    assert {vector.image for vector in after.golden} <= {vector.image for vector in before.golden}
    written = json.loads((copy.folder / "certificate.json").read_text())
    assert written == {"bundle": after.model, **issued}
    assert json.loads((copy.folder / "run.json").read_text())["config"]["certify"]["escape"] == 0.95
    page = (copy.folder / "certificate.html").read_text()
    for text in ("tiny certified", issued["formats"]["tflite_int8"]["says"], "Defects that onnx_int8 missed", "svg"):
        assert text in page


def test_what_was_timed_as_the_fastest_is_certified_on_that_engine(copy: Copy) -> None:
    made = bundles.read(copy.bundle)
    pairs = [(name, fmt.engines[1]) for name, fmt in made.manifest.formats.items() if "openvino" in fmt.engines[1:]]
    if not pairs:
        pytest.skip("openvino is not installed, or gives other outputs here: no format has a second engine")
    name, engine = pairs[0]
    models = {name: made.path(name).read_bytes() for name in made.manifest.formats}
    golden = [(vector, made.golden_frame(vector)) for vector in made.golden]
    bundles.write(made.root, replace(made.manifest, fastest=(name, engine)), models, golden)
    assert copy.certify(*LOOSE).code == 0
    manifest = bundles.read(copy.bundle).manifest
    assert manifest.fastest == (name, engine) and manifest.certificate is not None
    certified = {name: entry["engine"] for name, entry in manifest.certificate["formats"].items()}
    assert certified == {one: fmt.engines[0] for one, fmt in manifest.formats.items()} | {name: engine}


def test_the_line_runs_with_the_certified_thresholds_and_says_what_is_certified(
    copy: Copy, diagline: Diagline, tmp_path: Path
) -> None:
    def run() -> tuple[list[dict[str, Any]], str]:
        outcome = diagline(
            "run", copy.bundle, "--source", copy.line.data / "bad", "--json", "--log", tmp_path / "log", "--format",
            "tflite_int8", "--allow-unsigned",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
        return [json.loads(text) for text in outcome.out.splitlines()], outcome.err

    assert "tflite_int8: no certificate" in run()[1]
    assert copy.certify(*LOOSE).code == 0
    bundle = bundles.read(copy.bundle)
    verdicts, said = run()
    assert {verdict["threshold"] for verdict in verdicts} == {bundle.manifest.formats["tflite_int8"].threshold}
    assert {verdict["state"] for verdict in verdicts} <= {"PASS", "REJECT"}
    assert bundle.manifest.certificate is not None
    assert bundle.manifest.certificate["formats"]["tflite_int8"]["says"] in said


def test_the_test_splits_scores_do_not_choose_the_threshold(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the test scores turned upside down every threshold stays the same."""
    from export import issue

    honest = issue._outputs

    def turned(*given: Any) -> Any:
        return honest(*given) * (-1 if given[-1] == "test" else 1)

    thresholds = []
    for outputs in (honest, turned):
        monkeypatch.setattr(issue, "_outputs", outputs)
        outcomes = issue.measure(bundles.read(copy.bundle), *splits(copy), CertifyConfig(0.95, 0.95, 0.6), threads=1)
        thresholds.append({name: outcome.choice.threshold for name, outcome in outcomes.items()})
    assert thresholds[0] == thresholds[1]


def splits(copy: Copy) -> tuple[Any, Any]:
    from diagline import config as configs
    from diagline import verbs

    real = verbs.real_data(configs.load(copy.line.config))
    return real.split("val"), real.split("test")


def test_a_missed_target_leaves_everything_as_it_was_and_shows_the_missed_defects(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert copy.certify(*LOOSE).code == 0
    issued = bundles.read(copy.bundle).manifest.certificate
    assert issued is not None
    before = fingerprint(copy.output)
    always_pass(monkeypatch)
    outcome = copy.certify(*STRICT)
    refused(outcome, "onnx_fp32 (and 2 of its other formats)", "40 % asked", "the network is not good enough")
    refused(outcome, "the bundle is as it was", f"its certificate of {issued['issued'][:10]}", "missed.html")
    after = fingerprint(copy.output)
    page = copy.folder / "missed.html"
    assert after.pop("certificate/missed.html") and after == before
    assert "tiny not certified" in page.read_text()
    monkeypatch.undo()
    assert copy.certify(*LOOSE).code == 0
    assert not page.exists()


def always_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A threshold above every output: each defect escapes."""
    from training import certify_threshold

    monkeypatch.setattr(certify_threshold, "choose", lambda *_: certify_threshold.Choice(1e6, "above everything"))


def test_too_few_defects_for_the_target_are_counted(copy: Copy) -> None:
    before = fingerprint(copy.output)
    defects = bundles.read(copy.bundle).manifest.metrics_split["defects"]
    refused(copy.certify(), f"{defects} real defects in the test split", "needs 59", f"add {59 - defects} more")
    refused(copy.certify("--escape", "0.95", "--confidence", "0.9"), "real good parts in the test split", "needs 45")
    assert fingerprint(copy.output) == before


@pytest.mark.parametrize("option", ["--escape", "--overkill", "--confidence"])
@pytest.mark.parametrize("number", ["0", "1.5", "nan"])
def test_a_target_that_is_no_share_is_refused(option: str, number: str, copy: Copy) -> None:
    refused(copy.certify(option, number), f"certify.{option[2:]} =", "expected")


def test_without_an_export_the_command_for_it_is_named(copy: Copy) -> None:
    shutil.rmtree(copy.bundle)
    refused(copy.certify(*LOOSE), copy.bundle, "diagline export")
    assert not copy.folder.exists()


def test_a_bundle_of_other_data_is_refused(copy: Copy, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(copy.line.data, data)
    for picture in (data / "bad").iterdir():
        shutil.copy(copy.line.data / "bad" / "000.png", picture)
    before = fingerprint(copy.output)
    refused(copy.certify(*LOOSE, "--set", f'data.root="{data}"'), data, "exported with", "export the bundle again")
    assert fingerprint(copy.output) == before


def with_rows(copy: Copy, root: Path, row: Callable[[str, int], str]) -> Path:
    """The line's pictures under a split.csv of its own; `row(name, number)` names the split."""
    shutil.copytree(copy.line.data, root)
    lines = ["image,mask,label,kind,group,split"]
    for label, name in enumerate(("good", "bad")):
        for number, picture in enumerate(sorted((root / name).iterdir())):
            lines.append(f"{name}/{picture.name},,{label},{name},{name}{number},{row(name, number)}")
    (root / "split.csv").write_text("\n".join(lines) + "\n")
    return root


def test_no_good_validation_parts_are_refused(copy: Copy, tmp_path: Path) -> None:
    data = with_rows(copy, tmp_path / "data", lambda name, number: "val" if name == "bad" and number < 3 else "test")
    rebase(copy.bundle, data)
    refused(
        copy.certify(*LOOSE, "--set", f'data.root="{data}"', "--set", "data.layout=split_csv"),
        "no real good pictures in the validation split",
    )


def test_no_real_defects_are_refused(copy: Copy, tmp_path: Path) -> None:
    data = with_rows(copy, tmp_path / "data", lambda name, number: "train" if name == "bad" else "test")
    refused(
        copy.certify(*LOOSE, "--set", f'data.root="{data}"', "--set", "data.layout=split_csv"),
        "no real defects in the test split",
    )


def test_a_synthetic_test_picture_is_refused_as_evidence(copy: Copy, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(copy.line.data, data)
    pictures = [path.relative_to(data).as_posix() for path in sorted(data.rglob("*.png"))]
    found = [Sample(path, None, int("bad" in path), path[:3], path, "test") for path in pictures]
    found[-1] = replace(found[-1], source="memseg")
    SampleSet(data, tuple(found)).save()
    before = fingerprint(copy.output)
    options = ("--set", f'data.root="{data}"', "--set", "data.layout=samples")
    refused(copy.certify(*LOOSE, *options), data / pictures[-1], "'memseg' is no evidence")
    assert fingerprint(copy.output) == before


def rebase(root: Path, data: Path) -> None:
    """Make a bundle say that it was measured on the test split of `data`."""
    from diagline import layouts

    found = bundles.read(root)
    measured = {
        **found.manifest.metrics_split,
        "data_hash": layouts.open_data(data, "split_csv", 3).split("test").hash(),
    }
    rewrite(root, lambda body: body.update(metrics_split=measured))


def rewrite(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest and seal it again, as someone who forges it would."""
    body = json.loads((root / bundles.MANIFEST).read_bytes())
    change(body)
    files.write_json(root / bundles.MANIFEST, body)
    digest = hashlib.sha256((root / bundles.MANIFEST).read_bytes()).hexdigest()
    (root / bundles.SEAL).write_text(f"{digest}  {bundles.MANIFEST}\n")


def test_a_certificate_of_another_model_threshold_or_data_is_refused_by_the_reader(copy: Copy) -> None:
    assert copy.certify(*LOOSE).code == 0
    manifest = (copy.bundle / bundles.MANIFEST).read_bytes()
    entry: Callable[[dict[str, Any]], dict[str, Any]] = lambda body: body["certificate"]["formats"]["onnx_int8"]  # noqa: E731
    forged: dict[str, Callable[[dict[str, Any]], object]] = {
        "of another model.int8.onnx": lambda body: entry(body).update(sha256="0" * 64),
        "onnx_int8 is certified at threshold": lambda body: body["formats"]["onnx_int8"].update(threshold=127),
        "rests on other data": lambda body: body["certificate"]["evidence"].update(data_hash="0" * 64),
        "leaves out onnx_int8": lambda body: body["certificate"]["formats"].pop("onnx_int8"),
        "cannot be understood": lambda body: entry(body).pop("says"),
    }
    for says, change in forged.items():
        rewrite(copy.bundle, change)
        with pytest.raises(BundleError, match=says):
            bundles.read(copy.bundle)
        (copy.bundle / bundles.MANIFEST).write_bytes(manifest)
    digest = hashlib.sha256(manifest).hexdigest()
    (copy.bundle / bundles.SEAL).write_text(f"{digest}  {bundles.MANIFEST}\n")
    assert bundles.read(copy.bundle).manifest.certificate is not None


def test_golden_pictures_too_near_the_threshold_leave_and_the_safest_of_a_class_stays(copy: Copy) -> None:
    from export import issue

    fmt = replace(bundles.read(copy.bundle).manifest.formats["tflite_int8"], threshold=10)
    outputs = {0: [-40, 7, 8, 9], 1: [10, 11, 12, 60]}
    golden = tuple(
        bundles.Golden(f"{label}{output}", label, {"tflite_int8": output})
        for label in outputs
        for output in outputs[label]
    )
    kept = issue.safe_golden(golden, {"tflite_int8": fmt})
    assert [vector.outputs["tflite_int8"] for vector in kept] == [-40, 7, 12, 60]
    near = tuple(vector for vector in golden if vector.image in ("09", "08", "110", "111"))
    assert [vector.outputs["tflite_int8"] for vector in issue.safe_golden(near, {"tflite_int8": fmt})] == [8, 11]


def test_a_machine_that_fails_the_golden_pictures_certifies_nothing(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_runtime.engines.ort_engine import OrtEngine

    honest = OrtEngine.infer
    monkeypatch.setattr(OrtEngine, "infer", lambda self, image: honest(self, image) + 5)
    before = fingerprint(copy.output)
    refused(copy.certify(*LOOSE), "self-test failed", "export it on this machine")
    assert fingerprint(copy.output) == before


def test_a_zero_shot_line_shows_no_real_defect_to_its_threshold(copy: Copy) -> None:
    assert copy.certify(*LOOSE, "--set", "data.shots=zero").code == 0
    certificate = bundles.read(copy.bundle).manifest.certificate
    assert certificate is not None and certificate["threshold_chosen_on"]["defects"] == 0
    assert all("0 of 0 defects missed" in entry["rule"] for entry in certificate["formats"].values())


def test_a_new_export_carries_no_certificate(copy: Copy, diagline: Diagline) -> None:
    assert copy.certify(*LOOSE).code == 0
    assert diagline("export", copy.line.config, "--set", f'output="{copy.output}"').code == 0
    assert bundles.read(copy.bundle).manifest.certificate is None


def test_every_format_is_certified_at_the_same_logit(copy: Copy) -> None:
    assert copy.certify(*LOOSE).code == 0
    formats = bundles.read(copy.bundle).manifest.formats
    logit = formats["onnx_fp32"].threshold
    for name, fmt in formats.items():
        assert fmt.threshold == threshold_for(fmt, logit), name


def test_formats_that_judge_differently_at_the_certified_threshold_are_not_certified(copy: Copy) -> None:
    from export import issue

    bundle = bundles.read(copy.bundle)
    outcomes = issue.measure(bundle, *splits(copy), CertifyConfig(0.95, 0.95, 0.6), threads=1)
    issue.check_flips(bundle, {"onnx_fp32": outcomes["onnx_fp32"]}, 0.0)
    evidence = replace(outcomes["tflite_int8"].evidence, outputs=-outcomes["tflite_int8"].evidence.outputs - 1000)
    passing = {**outcomes, "tflite_int8": replace(outcomes["tflite_int8"], evidence=evidence)}
    rejected = int((outcomes["onnx_fp32"].evidence.outputs >= outcomes["onnx_fp32"].certificate.threshold).sum())
    assert rejected
    with pytest.raises(ParityError, match=f"tflite_int8 flips {rejected} of 15 verdicts of onnx_fp32") as caught:
        issue.check_flips(bundle, passing, 0.5 * rejected / 15)
    assert caught.value.exit_code == 3
