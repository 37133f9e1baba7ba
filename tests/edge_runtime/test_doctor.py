"""The doctor says what is there, calls wrong what would stop a line, and outlives whatever a probe does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from diagline import signing
from diagline.bundle import Bundle
from diagline.errors import CameraError, ConfigError
from diagline.samples import write_image
from edge_runtime.camera.checks import ChecksConfig
from edge_runtime.camera.frames import Frame, stamp
from edge_runtime.camera.stamps import WORDS
from edge_runtime.doctor import line as doctor_line
from edge_runtime.doctor import machine as doctor_machine
from edge_runtime.doctor.probes import Finding, Grade, Probe, doubtful, examine, raised, to_json, well, worst, wrong
from edge_runtime.engines import golden_apart
from edge_runtime.engines.golden_apart import fault_apart


def grades(findings: Iterable[Finding]) -> list[str]:
    return [finding.grade.value for finding in findings]


def one(findings: Iterable[Finding]) -> Finding:
    (finding,) = findings
    return finding


# The doctor itself.


def test_a_probe_that_raises_or_hangs_is_a_finding_and_keeps_no_other_from_its_own() -> None:
    released = threading.Event()

    def fails() -> Iterator[Finding]:
        yield well("first", "said before it failed")
        raise ValueError("two\nlines")

    def hangs() -> Iterator[Finding]:
        yield well("second", "said before it hung")
        released.wait()

    found = examine([Probe("fails", fails), Probe("hangs", hangs, 0.2), Probe("works", lambda: [well("works", "yes")])])
    released.set()
    assert [finding.what for finding in found] == ["first", "fails", "second", "hangs", "works"]
    assert grades(found) == ["well", "wrong", "well", "wrong", "well"]
    assert "ValueError: two lines" in found[1].found and "no answer within 0.2 s" in found[3].found


def test_the_next_step_of_an_error_is_its_last_clause() -> None:
    found = raised("camera", CameraError("camera 7 does not open; expected a camera there; list them with: ls"))
    assert (found.found, found.next) == ("camera 7 does not open; expected a camera there", "list them with: ls")


@pytest.mark.parametrize("make", [doubtful, wrong])
def test_whatever_is_not_well_has_a_next_step(make: Callable[[str, str, str], Finding]) -> None:
    with pytest.raises(ValueError, match="next step"):
        make("camera", "black", "")


def test_the_worst_grade_counts_and_json_holds_all_of_it() -> None:
    found = [well("a", "x"), wrong("b", "y", "do z"), doubtful("c", "y", "do z")]
    assert worst([]) is Grade.WELL and worst(found[::2]) is Grade.DOUBTFUL and worst(found) is Grade.WRONG
    body = json.loads(json.dumps(to_json(found)))
    assert body["grade"] == "wrong"
    assert body["findings"][1] == {"what": "b", "grade": "wrong", "found": "y", "next": "do z"}


# The machine.


def tree(root: Path, **files: str) -> Path:
    """A root folder with these files; `__` in a name stands for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("info", "grade", "said"),
    [
        ("model name\t: Xeon\nflags\t: sse avx2 avx512_vnni amx_int8 avx512_bf16", "well", "avx2 avx512_vnni amx_int8"),
        ("model name\t: Atom\nflags\t: sse sse2", "doubtful", "int8: none; bf16: none"),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp bf16", "well", "int8: asimddp; bf16: bf16"),
        ("processor\t: 0\nFeatures\t: fp asimd", "doubtful", "int8: none"),
        ("", "doubtful", "int8: none"),
    ],
)
def test_a_processor_without_fast_int8_is_doubtful_be_it_x86_or_arm(
    tmp_path: Path, info: str, grade: str, said: str
) -> None:
    found = one(doctor_machine.processor(tree(tmp_path, proc__cpuinfo=info)))
    assert found.grade == grade and said in found.found


def test_one_core_that_saves_power_is_doubtful(tmp_path: Path) -> None:
    assert one(doctor_machine.governor(tmp_path)).grade == "well"
    for core, name in enumerate(("performance", "powersave")):
        tree(tmp_path, **{f"sys__devices__system__cpu__cpu{core}__cpufreq__scaling_governor": name})
        assert one(doctor_machine.governor(tmp_path)).grade == ("doubtful" if core else "well")


def test_cores_are_doubtful_when_others_use_them(tmp_path: Path) -> None:
    tree(tmp_path, sys__devices__system__cpu__isolated="2-3", proc__loadavg="0.01 0.5 0.5 1/200 300")
    found = one(doctor_machine.cores(tmp_path))
    assert found.grade == "well" and "isolated: 2-3, load 0.0" in found.found
    assert one(doctor_machine.cores(tree(tmp_path, proc__loadavg="999.0 0 0 1/200 300"))).grade == "doubtful"


@pytest.mark.parametrize(
    ("files", "grade", "said"),
    [
        ({}, "well", "not shown"),
        ({"sys__class__thermal__thermal_zone0__temp": "51234"}, "well", "51 °C"),
        ({"sys__class__thermal__thermal_zone0__temp": "junk"}, "well", "not shown"),
        (
            {"sys__class__thermal__thermal_zone0__temp": "40000", "sys__class__thermal__thermal_zone1__temp": "93000"},
            "doubtful",
            "93 °C",
        ),
        (
            {"sys__devices__system__cpu__cpu1__thermal_throttle__core_throttle_count": "7"},
            "doubtful",
            "throttled 7 times",
        ),
        ({"sys__devices__platform__soc__soc:firmware__get_throttled": "50005"}, "doubtful", "under-voltage"),
        ({"sys__devices__platform__soc__soc:firmware__get_throttled": "0"}, "well", "not shown"),
    ],
)
def test_heat_and_throttling_are_doubtful(tmp_path: Path, files: dict[str, str], grade: str, said: str) -> None:
    found = one(doctor_machine.temperature(tree(tmp_path, **files)))
    assert found.grade == grade and said in found.found


@pytest.mark.parametrize(("free_mib", "grade"), [(4000, "well"), (500, "doubtful"), (100, "wrong")])
def test_a_box_without_memory_is_wrong(tmp_path: Path, free_mib: int, grade: str) -> None:
    info = f"MemTotal:        8192000 kB\nMemAvailable:    {free_mib * 1024} kB\nHugePages_Total:       0"
    assert one(doctor_machine.memory(tree(tmp_path, proc__meminfo=info))).grade == grade


@pytest.mark.parametrize(
    ("year", "state", "grade", "said"),
    [
        (2026, 0, "well", ", synchronised"),
        (2026, doctor_machine.CLOCK_ERROR, "doubtful", "not synchronised"),
        (2026, -1, "doubtful", "cannot tell"),
        (1970, 0, "wrong", "cannot be"),
    ],
)
def test_a_clock_that_cannot_be_right_is_wrong(year: int, state: int, grade: str, said: str) -> None:
    found = one(doctor_machine.clock(state, doctor_machine.datetime(year, 5, 1, tzinfo=doctor_machine.UTC)))
    assert found.grade == grade and said in found.found


def test_a_user_without_a_group_that_this_machine_has_is_doubtful() -> None:
    known = {"video", "dialout", "users"}
    found = one(doctor_machine.groups(False, known, {"video"}))
    assert found.grade == "doubtful" and "dialout" in found.found and "gpio" not in found.found
    assert "usermod -aG dialout" in str(found.next)
    assert one(doctor_machine.groups(False, known, {"video", "dialout"})).grade == "well"
    assert one(doctor_machine.groups(True, known, set())).grade == "well"


def test_systemd_is_known_by_its_folder(tmp_path: Path) -> None:
    assert one(doctor_machine.systemd(tmp_path)).grade == "doubtful"
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert one(doctor_machine.systemd(tmp_path)).grade == "well"


def test_every_probe_of_this_machine_says_something(tmp_path: Path) -> None:
    probes = doctor_machine.probes(tmp_path, 0.001)
    found = examine(probes)
    assert {probe.what for probe in probes} <= {finding.what for finding in found}
    assert not [finding for finding in found if "cannot be looked at" in finding.found]


# The disk.


def test_days_left_are_free_space_by_what_a_day_writes(tmp_path: Path) -> None:
    free_gb = doctor_machine.shutil.disk_usage(tmp_path).free / 1e9
    for days, grade in ((0.5, "wrong"), (3.0, "doubtful"), (30.0, "well")):
        found = next(iter(doctor_machine.disk_space(tmp_path, free_gb / days)))
        assert found.grade == grade and f"{days:.1f} days" in found.found


def test_what_a_day_writes_is_read_from_the_archives_last_day(tmp_path: Path) -> None:
    now_s = 1e9
    archive = tmp_path / "archive"

    def add(name: str, size: int, age_h: float) -> None:
        path = archive / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
        doctor_machine.os.utime(path, (now_s, now_s - age_h * 3600))

    def said() -> str:
        return next(iter(doctor_machine.disk_space(archive, None, now_s))).found

    add("reject/a.png", 1000, 0.2)
    assert "not known yet" in said()  # within an hour nothing can be told
    add("reject/b.png", 5000, 6.0)
    assert doctor_machine._bytes_per_day(archive, now_s) == pytest.approx(6000 * 4)
    add("pass/c.png", 7000, 20 * 24.0)
    assert doctor_machine._bytes_per_day(archive, now_s) == 6000
    assert "days, were nothing deleted" in said()


def test_an_archive_that_is_not_there_yet_is_said_and_its_disk_measured(tmp_path: Path) -> None:
    found = list(doctor_machine.disk_space(tmp_path / "none/yet", 0.001))
    assert found[0].grade == "doubtful" and "not there yet" in found[0].found and "GB free" in found[1].found
    assert one(doctor_machine.disk_writes(tmp_path / "none/yet")).what == "disk writes"
    assert list(tmp_path.iterdir()) == []


def test_an_archive_that_cannot_be_written_to_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in its place")
    assert one(doctor_machine.disk_writes(tmp_path / "file")).grade == "wrong"


def test_the_slowest_of_a_hundred_writes_counts() -> None:
    assert doctor_machine.sync_finding([1.0] * 100).grade == "well"
    slow = doctor_machine.sync_finding([1.0] * 99 + [250.0])
    assert slow.grade == "doubtful" and "p50 1.0 ms, p99 250.0 ms" in slow.found


# The camera.


def checked(level: int, width_px: int) -> NDArray[np.uint8]:
    """A chessboard around a brightness: it shows something."""
    rows, columns = np.indices((8, width_px))
    return np.repeat(np.where((rows + columns) % 2, level + 8, max(level - 8, 0))[:, :, None], 3, 2).astype(np.uint8)


def shot(level: int, number: int = 0, noise: bool = True, cause: str | None = None) -> Frame:
    image = checked(level, 12)
    image[0, 0] += np.uint8(number if noise else 0)
    return Frame(None if cause else image, number, *stamp(), cause=cause)


@pytest.mark.parametrize(
    ("frames", "grade", "said"),
    [
        ([shot(100, n) for n in range(5)], "well", "5 frames of 12x8"),
        ([shot(2, n) for n in range(5)], "wrong", "black"),
        ([shot(100, n, noise=False) for n in range(7)], "wrong", "frozen"),
        ([shot(100, n, noise=False) for n in range(3)], "well", "3 frames"),  # as a box bears it
        ([Frame(np.full((8, 12, 3), 90, np.uint8), 0, *stamp())], "wrong", "flat"),
        ([shot(100, 0), shot(2, 1), shot(100, 2)], "doubtful", "1 a box refuses: black"),
        ([shot(100)], "well", "1 frames"),
        ([], "wrong", "no frame"),
        ([shot(0, cause="no frame within 5 s")], "wrong", "no frame within 5 s"),
        ([shot(100, 0), shot(100, 1), shot(0, 2, cause="cut short")], "doubtful", "1 without a picture: cut short"),
    ],
)
def test_a_camera_that_shows_nothing_or_never_changes_is_wrong(frames: list[Frame], grade: str, said: str) -> None:
    found = doctor_line.frames_finding(frames)
    assert found.grade == grade and said in found.found


def test_a_camera_is_held_to_the_checks_of_its_box() -> None:
    frames = [shot(100, n, noise=False) for n in range(7)]
    assert doctor_line.frames_finding(frames, 0, ChecksConfig(off=("frozen",))).grade == "well"
    assert doctor_line.frames_finding(frames, 0, ChecksConfig(contrast=50)).grade == "wrong"


@pytest.mark.parametrize(
    ("by", "grade"), [("camera", "well"), ("none", "well"), ("future", "doubtful"), ("far", "doubtful")]
)
def test_a_camera_says_whose_clock_stamps_its_frames(by: str, grade: str) -> None:
    found = doctor_line.frames_finding([replace(shot(100, number), stamped=by) for number in range(5)])
    assert found.grade == grade and WORDS[by] in found.found


def test_the_rate_counts_frames_that_nobody_took() -> None:
    frames = [Frame(shot(100, n).frame_bgr, n, "", n * 100_000_000) for n in range(11)]
    assert "10.0 a second, brightness 100" in doctor_line.frames_finding(frames).found
    assert "30.0 a second" in doctor_line.frames_finding(frames, dropped=20).found


def test_a_folder_is_looked_at_as_a_camera_is_and_one_that_does_not_open_says_why(tmp_path: Path) -> None:
    for number in range(4):
        write_image(tmp_path / f"{number}.png", checked(90 + number, 12))
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:-30])
    found = one(doctor_line.camera(str(tmp_path)))
    assert found.grade == "doubtful" and "3 frames of 12x8" in found.found and "1 without a picture" in found.found
    (probe,) = (probe for probe in doctor_line.probes(source="rtsp://me:secret@127.0.0.1:1/x", timeout_s=2.0)
                if probe.what == "camera")  # fmt: skip
    found = one(examine([probe]))
    assert found.grade == "wrong" and "does not open" in found.found and "secret" not in str(found)


# Bundle and engines.


def test_a_bundle_that_is_not_trusted_is_wrong_and_is_not_run(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor_line, "golden_vectors", lambda *_: pytest.fail("it was run"))
    found = one(examine([Probe("bundle", lambda: doctor_line.bundle(bundle.root))]))
    assert found.grade == "wrong" and "not signed" in found.found
    assert one(examine([Probe("bundle", lambda: doctor_line.bundle(tmp_path))])).grade == "wrong"


def test_each_engine_of_an_allowed_bundle_runs_its_golden_vectors_in_a_process_of_its_own(bundle: Bundle) -> None:
    found = list(doctor_line.bundle(bundle.root, allow_unsigned=True))
    assert grades(found) == ["doubtful", "well", "well", "well"] and "not signed" in found[0].found
    assert [finding.what for finding in found[1:]] == [
        "onnx_fp32 on onnxruntime", "onnx_int8 on onnxruntime", "tflite_int8 on litert",
    ]  # fmt: skip


def test_a_signed_bundle_is_well_where_its_key_is_given(
    make_bundle: Callable[..., Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(doctor_line, "golden_vectors", lambda *_: iter(()))
    private, public = signing.make_pair("line", tmp_path)
    root = doctor_line.bundles.sign(make_bundle(tmp_path / "x.bundle").root, private).root
    assert one(doctor_line.bundle(root, [public])).grade == "well"
    with pytest.raises(doctor_line.signing.BundleError, match="not among the trusted"):
        list(doctor_line.bundle(root, allow_unsigned=True))


def test_the_failing_engine_is_wrong_where_it_is_the_one_that_runs_and_doubtful_elsewhere(bundle: Bundle) -> None:
    def fault(root: Path, name: str, engine: str) -> str | None:
        return "self-test failed" if name == "tflite_int8" else None

    by_default = list(doctor_line.golden_vectors(bundle, ("tflite_int8", "litert"), fault))
    recorded = list(doctor_line.golden_vectors(bundle, ("onnx_int8", "onnxruntime"), fault))
    assert grades(by_default) == ["well", "well", "wrong"] and grades(recorded) == ["well", "well", "doubtful"]


def test_an_engine_that_answers_otherwise_than_at_export_is_named(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    root = make_bundle(tmp_path / "false.bundle", shift=-5.0).root
    assert "self-test failed on" in str(fault_apart(root, "tflite_int8", "litert"))
    assert "not verified on openvino" in str(fault_apart(root, "tflite_int8", "openvino"))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "litert died (SIGILL)"),
        ("import threading; threading.Event().wait()", "no answer within 1 s"),
        ("raise SystemExit('no such library')", "no such library"),
    ],
)
def test_an_engine_that_dies_or_hangs_does_not_take_the_doctor_along(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, code: str, said: str
) -> None:
    monkeypatch.setattr(golden_apart, "COMMAND", (golden_apart.sys.executable, "-c", code))
    assert fault_apart(bundle.root, "tflite_int8", "litert", timeout_s=1 if "within" in said else 60) == said


def test_without_any_engine_all_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "onnxruntime " in one(doctor_line.engines()).found
    monkeypatch.setattr(doctor_line, "missing", lambda engine: f"{engine} is not installed")
    assert one(doctor_line.engines()).grade == "wrong"


# Addresses.


@pytest.mark.parametrize(
    ("text", "expected"),
    [("plc", ("plc", 502)), ("10.0.0.1:1502", ("10.0.0.1", 1502)), ("[::1]:502", ("::1", 502)), ("::", None),
     ("plc:port", None), ("", None), ("me:secret@plc", None), ("plc/x", None)],
)  # fmt: skip
def test_an_address_is_host_and_port_and_nothing_else(text: str, expected: tuple[str, int] | None) -> None:
    if expected is None:
        with pytest.raises(ConfigError, match="--plc: not an address") as refusal:
            doctor_line.address("--plc", text, 502)
        assert "secret" not in str(refusal.value)
    else:
        assert doctor_line.address("--plc", text, 502) == expected


def test_frames_of_other_sizes_are_doubtful() -> None:
    frames = [Frame(checked(90, 10 + n), n, *stamp()) for n in range(2)]
    found = doctor_line.frames_finding(frames)
    assert found.grade == "doubtful" and "wrong size: 11x8; expected 10x8" in found.found
