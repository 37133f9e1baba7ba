from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diagline import files, samples
from diagline.errors import ConfigError, DatasetError, OutputError
from diagline.samples import Sample, SampleSet
from generation.memseg import MemSegPainter, MemSegSettings
from generation.painting import Image, Job
from generation.repaint import repaint
from generation.studio import session as room
from generation.studio.session import ACCEPTED, REJECTED, Candidate, Form, Session

PAINTER = MemSegPainter(MemSegSettings())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "session"


def spot(left: int = 20, shape: tuple[int, int] = (61, 40)) -> Image:
    mask = np.zeros(shape, np.uint8)
    mask[10:20, left : left + 8] = 255
    return mask


def paint(session: Session, normal: Sample, mask: Image | None = None, kind: str = "scratch", **more: Any) -> Candidate:
    job = Job(session.normals.read_image(normal), mask, session.next_streams(1)[0], "a scratch", "rust", **more)
    painted = PAINTER.paint([job])[0]
    return session.add(PAINTER, job, painted, normal, kind, {"visibility": 2.5, "distance": 1.25}, "too faint: 0.5")


def check(folder: Path, normals: SampleSet) -> Session:
    """Open a session and see that everything in it agrees with everything else."""
    session = Session(folder, normals, 7)
    found = session.candidates()
    assert [one.number for one in found] == sorted({one.number for one in found})
    for one in found:
        assert session.image(one.number).shape == session.normal_image(one.number).shape == (61, 40, 3)
        mask = session.candidate_mask(one.number)
        assert mask is not None and mask.any()
    wanted = {one.number: one for one in found if one.decision == ACCEPTED}
    accepted = session.accepted()
    assert {int(Path(sample.image).stem) for sample in accepted} == set(wanted)
    if (folder / "accepted" / samples.RECORDS).is_file():
        assert samples.load(folder / "accepted") == accepted
    else:
        assert not wanted
    names = sorted(f"{number:05d}.png" for number in wanted)
    for part in ("images", "masks"):
        assert sorted(path.name for path in (folder / "accepted" / part).glob("*")) == names
    assert samples.split_bad(accepted)[1] == []
    for sample in accepted:
        again = repaint(normals.root, sample)
        assert np.array_equal(again.image_bgr, accepted.read_image(sample))
        assert np.array_equal(again.mask, accepted.read_mask(sample))
        one = wanted[int(Path(sample.image).stem)]
        assert sample.provenance["accepted_by"] == one.person and sample.provenance["accepted_utc"] == one.decided_utc
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"]
    return session


def test_a_session_that_is_opened_again_is_the_same(folder: Path, normals: SampleSet) -> None:
    session = Session(folder, normals, 7)
    session.save_form(Form("0.png", "a scratch", "rust", "scratch", "diag", "here/model", 3, "anna", {"steps": 4}))
    session.save_mask(spot())
    for number in range(4):
        paint(session, normals.samples[number % 2], spot(number), kind="" if number else "scratch")
    session.decide(1, ACCEPTED, "anna")
    session.decide(2, REJECTED, "ben")
    session.decide(3, ACCEPTED, "ben")
    again = check(folder, normals)
    assert again.form == session.form and again.form.settings == {"steps": 4}
    assert again.candidates() == session.candidates() and again.undecided() == [session.candidates()[3]]
    assert np.array_equal(again.mask(), spot())
    assert [one.decision for one in again.candidates()] == [ACCEPTED, REJECTED, ACCEPTED, None]


def test_a_new_session_has_an_empty_form_with_the_systems_user_and_no_form_file(
    folder: Path, normals: SampleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "anna")
    session = Session(folder, normals, 7)
    assert session.form == Form(person="anna") and not (folder / "session.json").exists()
    session.save_form(session.form)
    assert (folder / "session.json").exists()
    assert session.mask() is None and session.candidates() == [] and len(session.accepted()) == 0


def test_an_accepted_sample_says_what_it_is_who_took_it_and_keeps_its_normals_group_and_split(
    folder: Path, normals: SampleSet
) -> None:
    session = Session(folder, normals, 7)
    paint(session, normals.samples[3], spot())
    paint(session, normals.samples[0], None, kind="")
    session.decide(1, ACCEPTED, " anna ")
    session.decide(2, ACCEPTED, "ben")
    named, unnamed = samples.load(folder / "accepted")
    assert (named.image, named.mask, named.label) == ("images/00001.png", "masks/00001.png", 1)
    assert (named.kind, named.source, named.group, named.split) == ("scratch", "memseg", "part-3", "val")
    assert named.provenance is not None and named.provenance["prompt"] == "a scratch"
    assert named.provenance["accepted_by"] == "anna" and named.provenance["accepted_utc"].endswith("+00:00")
    assert named.provenance["scores"] == {"visibility": 2.5, "distance": 1.25}
    assert (unnamed.kind, unnamed.split) == ("memseg", "train")
    SampleSet(normals.root, (*normals.samples, named, unnamed)).check_groups()


def test_a_decision_may_be_changed_and_taken_back_and_every_one_is_kept(folder: Path, normals: SampleSet) -> None:
    session = Session(folder, normals, 7)
    paint(session, normals.samples[0], spot())
    for decision, person in ((ACCEPTED, "anna"), (None, "anna"), (REJECTED, "ben"), (ACCEPTED, "ben\u2028dora")):
        one = session.decide(1, decision, person)
        assert (one.decision, one.person) == (decision, person if decision else None)
        assert (one.decided_utc is None) == (decision is None) and session.candidates() == [one]
        assert len(samples.load(folder / "accepted")) == (decision == ACCEPTED)
        assert check(folder, normals).candidates() == [one]
    history = [json.loads(line) for line in (folder / "decisions.jsonl").read_text().split("\n")[:-1]]
    assert [line["decision"] for line in history] == [ACCEPTED, None, REJECTED, ACCEPTED]
    session.decide(1, ACCEPTED, "ben\u2028dora")
    assert len((folder / "decisions.jsonl").read_text().split("\n")) == 5  # the same again is no decision
    session.decide(1, ACCEPTED, "carl")
    assert samples.load(folder / "accepted").samples[0].provenance["accepted_by"] == "carl"  # type: ignore[index]


def test_nobody_decides_without_a_name_or_about_nothing(folder: Path, normals: SampleSet) -> None:
    session = Session(folder, normals, 7)
    paint(session, normals.samples[0], spot())
    for person in ("", "  "):
        with pytest.raises(ConfigError, match="person is empty; expected"):
            session.decide(1, ACCEPTED, person)
    with pytest.raises(ValueError, match="'maybe'"):
        session.decide(1, "maybe", "anna")
    for call in (session.image, session.candidate_mask, session.normal_image):
        with pytest.raises(DatasetError, match="candidate 2: not in"):
            call(2)
    with pytest.raises(DatasetError, match="candidate 2: not in"):
        session.decide(2, ACCEPTED, "anna")
    assert session.undecided() == session.candidates() and not (folder / "decisions.jsonl").exists()


class Power:
    """Counts every change of the disk, and fails before the n-th."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 10**9
        for owner, name in ((files, "write_bytes"), (os, "link"), (Path, "unlink"), (Path, "mkdir")):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return real(*args, **named)

        return call


class Acknowledged:
    """What the calls that came back have promised; a call that did not come back may have happened or not."""

    def __init__(self) -> None:
        self.form = [Form()]
        self.masks: list[Image | None] = [None]
        self.decisions: dict[int, list[str | None]] = {}
        self.streams: list[tuple[int, ...]] = []
        self.painted: dict[int, Image] = {}

    def run(self, session: Session) -> None:
        normals = session.normals.samples
        for step in range(2):
            self.form = [self.form[-1], Form("0.png", f"a scratch {step}", person="anna")]
            session.save_form(self.form[-1])
            self.form = self.form[-1:]
            for mask in (spot(5 + step), None, spot(9)):
                self.masks = [self.masks[-1], mask]
                session.save_mask(mask)
                self.masks = [mask]
            for normal in normals[3 * step : 3 * step + 2]:
                stream = session.next_streams(2)[0]
                self.streams.append(stream)
                job = Job(session.normals.read_image(normal), spot(9), stream)
                painted = PAINTER.paint([job])[0]
                number = session.add(PAINTER, job, painted, normal, "scratch", {}, None).number
                self.painted[number], self.decisions[number] = painted.image_bgr, [None]
            numbers = sorted(self.painted)
            for number, decision in ((numbers[-1], ACCEPTED), (numbers[0], REJECTED), (numbers[-2], ACCEPTED),
                                     (numbers[-1], None), (numbers[0], ACCEPTED)):  # fmt: skip
                self.decisions[number] = [self.decisions[number][-1], decision]
                session.decide(number, decision, "anna")
                self.decisions[number] = [decision]

    def check(self, session: Session) -> None:
        assert session.form in self.form
        found = session.mask("0.png")
        assert any(
            found is None if mask is None else found is not None and np.array_equal(found, mask) for mask in self.masks
        )
        by_number = {one.number: one for one in session.candidates()}
        assert len(by_number) in (len(self.painted), len(self.painted) + 1)
        for number, image in self.painted.items():
            assert np.array_equal(session.image(number), image)
            assert by_number[number].decision in self.decisions[number]
        assert not set(session.next_streams(3)) & set(self.streams)


def test_a_session_killed_at_any_write_is_whole_and_has_all_that_was_acknowledged(
    normals: SampleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    power, folder = Power(monkeypatch), tmp_path / "session"
    stopped = 0
    for last in range(1, 500):
        shutil.rmtree(folder, ignore_errors=True)
        promised = Acknowledged()
        power.left = last
        try:
            promised.run(Session(folder, normals, 7))
        except KeyboardInterrupt:
            stopped += 1
            power.left = 10**9
            if (folder / "accepted" / samples.RECORDS).is_file():
                samples.load(folder / "accepted")
            session = check(folder, normals)
            promised.check(session)
            newest = max((one.number for one in session.candidates()), default=0)
            assert paint(session, normals.samples[0], spot()).number == newest + 1  # it goes on
            session.decide(newest + 1, ACCEPTED, "ben")
            assert samples.load(folder / "accepted") == session.accepted()
        else:
            break
    assert stopped > 60 and last < 499


def test_opening_that_is_killed_at_any_write_is_mended_by_the_next(
    normals: SampleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, kept = tmp_path / "session", tmp_path / "kept"
    session = Session(kept, normals, 7)
    for number in range(1, 4):
        paint(session, normals.samples[0], spot(number))
        session.decide(number, ACCEPTED if number < 3 else REJECTED, "anna")
    shutil.rmtree(kept / "accepted" / "images")  # what a crash could leave, and worse
    (kept / "accepted" / "masks" / "00002.png").unlink()
    (kept / "accepted" / "masks" / "00002.png").write_bytes(b"another picture")
    (kept / "accepted" / "masks" / "00003.png").write_bytes(b"not accepted")
    (kept / "candidates" / ".00009.png.abcd1234").write_bytes(b"half")
    power, stopped = Power(monkeypatch), 0
    for last in range(1, 100):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
        power.left = last
        try:
            Session(folder, normals, 7)
        except KeyboardInterrupt:
            stopped += 1
            power.left = 10**9
            assert check(folder, normals).candidates() == session.candidates()
        else:
            break
    power.left = 10**9
    assert stopped > 5 and last < 99
    assert check(folder, normals).accepted().samples == session.accepted().samples


def test_a_process_killed_while_it_works_loses_nothing_that_it_told(folder: Path, normals: SampleSet) -> None:
    normals.save()
    code = textwrap.dedent("""
        import sys
        from pathlib import Path
        import numpy as np
        from diagline import samples
        from generation.memseg import MemSegPainter, MemSegSettings
        from generation.painting import Job
        from generation.studio.session import Session
        normals, painter = samples.load(Path(sys.argv[2])), MemSegPainter(MemSegSettings())
        session = Session(Path(sys.argv[1]), normals, 7)
        while True:
            normal, (stream,) = normals.samples[0], session.next_streams(1)
            job = Job(normals.read_image(normal), None, stream)
            one = session.add(painter, job, painter.paint([job])[0], normal, "spot", {}, None)
            print("painted", one.number, flush=True)
            session.decide(one.number, "accepted", "anna")
            print("accepted", one.number, flush=True)
    """)
    told: dict[str, set[int]] = {"painted": set(), "accepted": set()}
    for stop_after in (3, 4, 9):
        command = [sys.executable, "-c", code, str(folder), str(normals.root)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for count, line in enumerate(process.stdout, start=1):
                word, number = line.split()
                told[word].add(int(number))
                if count == stop_after:
                    process.send_signal(signal.SIGKILL)
        session = check(folder, normals)
        found = session.candidates()
        assert told["painted"] <= {one.number for one in found}
        assert told["accepted"] and told["accepted"] <= {one.number for one in found if one.decision == ACCEPTED}
        streams = [tuple(one.facts["stream"]) for one in found]
        assert len(set(streams)) == len(streams)
        session._held.close()  # as the end of its process would


def test_a_second_process_is_refused(folder: Path, normals: SampleSet) -> None:
    session = Session(folder, normals, 7)
    code = (
        "import sys; from pathlib import Path; from diagline.samples import SampleSet\n"
        "from generation.studio.session import Session; Session(Path(sys.argv[1]), SampleSet(Path('.'), ()), 1)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True)
    assert "OutputError" in done.stderr and "open in another process; expected one at a time" in done.stderr
    session._held.close()
    assert subprocess.run([sys.executable, "-c", code, str(folder)]).returncode == 0


def test_a_folder_of_something_else_is_refused_and_left_alone(folder: Path, normals: SampleSet) -> None:
    (folder / "accepted" / "images").mkdir(parents=True)
    (folder / "accepted" / "images" / "00001.png").write_bytes(b"someone's")
    with pytest.raises(OutputError, match=r"holds accepted but no streams\.json; expected a session or an empty"):
        Session(folder, normals, 7)
    assert [path.name for path in folder.rglob("*.*")] == ["00001.png"]


def test_streams_are_never_handed_out_twice(folder: Path, normals: SampleSet) -> None:
    found: list[tuple[int, ...]] = []
    for seed in (7, 7, 8):
        session = Session(folder, normals, seed)
        found += session.next_streams(3)
        paint(session, normals.samples[0], spot())
    assert len({stream[2] for stream in found}) == len(found) == 9
    assert {stream[:2] for stream in found} == {(7, room.STUDIO), (8, room.STUDIO)}
    files.write_json(folder / "streams.json", {"format": room.FORMAT, "handed_out": 0})  # restored from a backup
    used = {tuple(one.facts["stream"]) for one in session.candidates()}
    assert not used & set(Session(folder, normals, 7).next_streams(20))
    with pytest.raises(ValueError, match="0 streams"):
        session.next_streams(0)


def test_threads_get_numbers_and_streams_of_their_own_and_lose_no_decision(folder: Path, normals: SampleSet) -> None:
    session, broken = Session(folder, normals, 7), []
    start = threading.Barrier(4, timeout=60)

    def work(place: int) -> None:
        try:
            start.wait()
            for turn in range(5):
                one = paint(session, normals.samples[place % 2], spot(turn))
                session.decide(one.number, ACCEPTED if turn % 2 else REJECTED, f"person {place}")
                session.save_form(Form("0.png", f"{place} {turn}"))
                session.save_mask(spot(place), "0.png")
                assert session.mask("0.png") is not None
                session.candidates()
        except BaseException as error:
            broken.append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert broken == []
    again = check(folder, normals)
    assert again.candidates() == session.candidates() and len(again.candidates()) == 20
    assert len({tuple(one.facts["stream"]) for one in again.candidates()}) == 20
    assert len(again.accepted()) == 8 and again.undecided() == [] and again.form.prompt.endswith(" 4")


def test_each_normal_has_its_own_drawing(folder: Path, normals: SampleSet) -> None:
    session = Session(folder, normals, 7)
    with pytest.raises(DatasetError, match="no picture is chosen"):
        session.save_mask(spot())
    session.save_form(Form("0.png"))
    session.save_mask(spot(1))
    session.save_mask(spot(2), "1.png")
    assert np.array_equal(session.mask(), spot(1))
    session.save_form(Form("1.png"))
    assert np.array_equal(Session(folder, normals, 7).mask(), spot(2))
    session.save_mask(np.zeros((61, 40), np.uint8))
    assert session.mask() is None and np.array_equal(session.mask("0.png"), spot(1))
    session.save_mask(None, "0.png")
    assert session.mask("0.png") is None


def test_a_mask_of_another_size_is_refused_and_the_drawing_stays(folder: Path, normals: SampleSet) -> None:
    session = Session(folder, normals, 7)
    session.save_form(Form("0.png"))
    session.save_mask(spot())
    for bad in (spot(shape=(40, 61)), np.full((61, 40, 3), 255, np.uint8)):
        with pytest.raises(DatasetError, match=r"0\.png: mask is .* px, its picture 40x61; expected the same size"):
            session.save_mask(bad)
    assert np.array_equal(session.mask(), spot())
    samples.write_image(normals.root / "0.png", np.zeros((10, 10, 3), np.uint8))
    assert session.mask() is None


def test_a_form_that_cannot_be_read_again_is_not_made(folder: Path, normals: SampleSet) -> None:
    for name, value in (("count", 4.0), ("method", None), ("settings", []), ("count", True)):
        with pytest.raises(ValueError, match=name):
            replace(Form(), **{name: value})
    session = Session(folder, normals, 7)
    with pytest.raises(DatasetError, match=r"9\.png: not a normal of this session"):
        session.save_form(Form("9.png"))


def test_settings_that_are_changed_in_place_are_saved_too(folder: Path, normals: SampleSet) -> None:
    session = Session(folder, normals, 7)
    session.save_form(Form(settings={"steps": 4}))
    form = session.form
    form.settings["steps"] = 5
    assert session.form.settings == {"steps": 4}
    session.save_form(form)
    assert Session(folder, normals, 7).form.settings == {"steps": 5}


def test_another_set_of_normals_keeps_the_candidates_and_gives_no_group_two_splits(
    folder: Path, normals: SampleSet
) -> None:
    session = Session(folder, normals, 7)
    session.save_form(Form("0.png", "a scratch"))
    for sample in normals.samples[:2]:
        session.decide(paint(session, sample, spot()).number, ACCEPTED, "anna")
    moved = tuple(replace(one, split="test", group="part-0") for one in normals.samples[1:2])
    again = check(folder, SampleSet(normals.root, moved))
    assert again.candidates() == session.candidates()
    assert {(one.group, one.split) for one in again.accepted()} == {("part-0", "test")}
    assert again.form == replace(session.form, normal="")  # "0.png" cannot be drawn on here


def test_a_picture_that_could_not_be_painted_again_is_neither_kept_nor_accepted(
    folder: Path, normals: SampleSet, tmp_path: Path
) -> None:
    session = Session(folder, normals, 7)
    normal = normals.samples[0]
    path = normals.root / normal.image
    paint(session, normal, spot())
    before = path.read_bytes()
    job = Job(normals.read_image(normal), spot(), session.next_streams(1)[0])
    painted = PAINTER.paint([job])[0]
    samples.write_image(path, np.zeros((61, 40, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"0\.png: not the picture that was painted with"):
        session.add(PAINTER, job, painted, normal, "", {}, None)
    with pytest.raises(DatasetError, match=r"0\.png: changed since the defect was painted on it"):
        session.decide(1, ACCEPTED, "anna")
    path.unlink()
    with pytest.raises(DatasetError, match=r"0\.png: not found"):
        session.decide(1, ACCEPTED, "anna")
    assert session.decide(1, REJECTED, "anna").decision == REJECTED
    path.write_bytes(before)
    with pytest.raises(ValueError, match="texture"):
        session.add(PAINTER, replace(job, texture_bgr=job.normal_bgr), painted, normal, "", {}, None)
    assert len(session.candidates()) == 1
    texture = tmp_path / "texture.png"
    samples.write_image(texture, np.random.default_rng(1).integers(0, 256, (30, 30, 3), np.uint8))
    for _ in range(4):
        job = Job(
            normals.read_image(normal), spot(), session.next_streams(1)[0], texture_bgr=samples.read_image(texture)
        )
        one = session.add(PAINTER, job, PAINTER.paint([job])[0], normal, "", {}, None, texture)
        session.decide(one.number, ACCEPTED, "anna")
    assert {sample.provenance["drawn"]["source"] for sample in check(folder, normals).accepted()} > {"texture"}  # type: ignore[index]


def test_a_method_without_masks_is_accepted_without_one(folder: Path, normals: SampleSet) -> None:
    session = Session(folder, normals, 7)
    job = Job(normals.read_image(normals.samples[0]), None, session.next_streams(1)[0], "a scratch")
    painted = replace(PAINTER.paint([job])[0], mask=None)
    number = session.add(PAINTER, job, painted, normals.samples[0], "", {}, None).number
    assert session.candidate_mask(number) is None
    session.decide(number, ACCEPTED, "anna")
    assert samples.load(folder / "accepted").samples[0].mask is None


def test_a_full_disk_is_named_and_the_next_decision_brings_the_accepted_set_up(
    folder: Path, normals: SampleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, real = Session(folder, normals, 7), os.fsync
    for _ in range(2):
        paint(session, normals.samples[0], spot())
    for room_for in range(3):
        left = [room_for]

        def full(handle: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
            real(handle)

        monkeypatch.setattr(os, "fsync", full)
        if room_for < 2:
            with pytest.raises(OutputError, match="No space left on device; free some space"):
                session.decide(1, ACCEPTED, "anna")
        with pytest.raises(OutputError):
            paint(session, normals.samples[0], spot())
        monkeypatch.setattr(os, "fsync", real)
        assert (session.candidates()[0].decision == ACCEPTED) == (room_for > 0)
        assert len(session.candidates()) == 2
    session.decide(2, ACCEPTED, "anna")
    assert len(samples.load(folder / "accepted")) == 2
    check(folder, normals)


def test_a_picture_that_cannot_be_removed_is_named_and_the_accepted_set_follows_on(
    folder: Path, normals: SampleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, real = Session(folder, normals, 7), Path.unlink
    paint(session, normals.samples[0], spot())
    session.decide(1, ACCEPTED, "anna")

    def stuck(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", stuck)
    with pytest.raises(OutputError, match=r"cannot remove .*00001\.png: Permission denied"):
        session.decide(1, None, "anna")
    assert len(samples.load(folder / "accepted")) == 0 and session.candidates()[0].decision is None
    monkeypatch.setattr(Path, "unlink", real)
    session.decide(1, ACCEPTED, "anna")
    assert samples.load(folder / "accepted") == session.accepted() and len(session.accepted()) == 1
    check(folder, normals)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("session.json", "{", r"session\.json: cannot be read"),
        ("session.json", '{"count": "4"}', r"session\.json: count = '4' is a str"),
        ("streams.json", '{"format": "other"}', r"streams\.json: format 'other'; expected diagline-studio-1"),
        ("decisions.jsonl", '{"number": 1}\n', r"decisions\.jsonl:1: not a decision"),
        ("candidates/00001.json", "[]", r"00001\.json: cannot be read .*no table"),
        ("candidates/00001.json", "{}", r"00001\.json: number = None; expected a candidate's record"),
    ],
)
def test_a_file_that_was_spoiled_by_hand_is_named(
    folder: Path, normals: SampleSet, name: str, text: str, words: str
) -> None:
    paint(Session(folder, normals, 7), normals.samples[0], spot())
    (folder / name).write_text(text)
    with pytest.raises(DatasetError, match=words):
        Session(folder, normals, 7)


def test_a_picture_that_is_gone_is_named_and_its_number_is_not_given_away(folder: Path, normals: SampleSet) -> None:
    session = Session(folder, normals, 7)
    paint(session, normals.samples[0], spot())
    session.decide(1, ACCEPTED, "anna")
    (folder / "candidates" / "00001.mask.png").unlink()
    with pytest.raises(DatasetError, match=r"00001\.mask\.png: not found; 00001\.json needs it"):
        Session(folder, normals, 7)
    (folder / "candidates" / "00001.json").unlink()
    again = check(folder, normals)
    assert again.candidates() == [] and len(again.accepted()) == 0
    assert paint(again, normals.samples[0], spot()).number == 2


def test_deciding_and_listing_read_no_records_and_write_what_changed(
    folder: Path, normals: SampleSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(folder, normals, 7)
    for _ in range(12):
        paint(session, normals.samples[0], spot())
    session.decide(1, ACCEPTED, "anna")
    read, written, real_read, real_write = [], [], Path.read_bytes, files.write_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path), real_read(path))[1])
    monkeypatch.setattr(files, "write_bytes", lambda path, data: (written.append(path.name), real_write(path, data)))
    for number in range(2, 8):
        session.decide(number, ACCEPTED, "anna")
        session.candidates()
    session.decide(9, REJECTED, "anna")
    session.accepted()
    assert read == [] and written == ["decisions.jsonl", "samples.jsonl"] * 6 + ["decisions.jsonl"]
