"""A model is flashed after all of it went well, or the old one runs on and the message says so."""

from __future__ import annotations

import itertools
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("smp", reason="smp is not installed: pip install 'diagline[firmware]'")
pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: apt-get install gcc")

from flash_payloads import HURRIED, payload, wrong_picture  # noqa: E402

from diagline.errors import FlashError  # noqa: E402
from firmware_bridge.device import Device, connect  # noqa: E402
from firmware_bridge.emulation.emulator import Emulated, emulate  # noqa: E402
from firmware_bridge.flash import Flashed, flash, flash_all  # noqa: E402
from firmware_bridge.link import Patience  # noqa: E402
from firmware_bridge.payload import misfit  # noqa: E402
from firmware_bridge.proof.tiny import Tiny  # noqa: E402
from firmware_bridge.provision import Parameters  # noqa: E402
from firmware_bridge.replies import Info  # noqa: E402

OLD, NEW = Tiny(length=9000, seed=1), Tiny(length=20_000, seed=2)
KEY = bytes(range(32))


@pytest.fixture
def emulated(tmp_path: Path) -> Iterator[Emulated]:
    with emulate("host", tmp_path / "device") as found:
        yield found


@pytest.fixture
def device(emulated: Emulated) -> Iterator[Device]:
    with connect(emulated.port, patience=HURRIED) as found:
        yield found


def running(device: Device) -> tuple[str, bool]:
    """The model that runs, and whether it is in force."""
    info, model = device.info()
    return (model.model if model else ""), info.confirmed


def test_a_model_is_flashed_tried_proven_and_put_in_force(device: Device) -> None:
    stages: dict[str, tuple[int, int]] = {}
    found = flash(device, payload(OLD), lambda stage, done, whole: stages.update({stage: (done, whole)}))
    assert (found.model.split()[0], found.golden, found.pictures, found.there_already) == ("tiny", 3, 2, False)
    assert list(stages) == ["upload", "trial", "self-test", "golden pictures"]
    assert stages["upload"] == (9000, 9000) and stages["golden pictures"] == (2, 2)
    assert flash(device, payload(NEW)).bytes == 20_000
    device.reset()
    device.wait()
    assert running(device) == ("tiny 2", True), "also after a reset"


def test_what_is_there_already_is_proven_and_not_sent_again(device: Device) -> None:
    flash(device, payload(OLD))
    stages: set[str] = set()
    again = flash(device, payload(OLD), lambda stage, done, whole: stages.add(stage))
    assert again.there_already and "upload" not in stages and again.pictures == 2
    with pytest.raises(FlashError, match=r"wrong\.png .*expected PASS with -77.*tiny 1 .*runs on"):
        flash(device, payload(OLD, wrong_picture(OLD)))


def test_a_golden_picture_that_comes_out_otherwise_leaves_the_old_model(device: Device) -> None:
    flash(device, payload(OLD))
    with pytest.raises(
        FlashError, match=r"wrong\.png is PASS with logit -78 .*expected PASS with -77.*tiny 1 .*runs on"
    ):
        flash(device, payload(NEW, wrong_picture(NEW)))
    assert running(device) == ("tiny 1", True)
    flash(device, payload(NEW))
    assert running(device) == ("tiny 2", True)


def test_an_image_whose_own_golden_pictures_fail_leaves_the_old_model(device: Device) -> None:
    flash(device, payload(OLD))
    with pytest.raises(FlashError, match=r"tiny 2 .* fails its golden pictures on the device; tiny 1 .*runs on"):
        flash(device, payload(replace(NEW, wrong_golden=True)))
    assert running(device) == ("tiny 1", True)


def test_a_first_model_that_fails_leaves_a_device_that_rejects(device: Device) -> None:
    with pytest.raises(FlashError, match="no model runs, and every part is rejected"):
        flash(device, payload(NEW, wrong_picture(NEW)))
    assert running(device) == ("", False)


def test_a_device_that_starts_again_in_an_upload_goes_on_from_its_last_sector(device: Device) -> None:
    there: list[int] = []

    def start_again(offset: int) -> None:
        if offset > 12_000 > max(there, default=0):
            device.reset()
        there.append(offset)

    assert device.upload(payload(NEW).image, start_again) is True
    again = next(index for index, (one, other) in enumerate(itertools.pairwise(there)) if other <= one) + 1
    assert there[again] == 12_288 and there[-1] == 20_000


def test_a_reset_that_the_device_did_not_hear_is_sent_again(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    reset = device.reset

    def lost_at_first() -> None:
        sent.append(1)
        if len(sent) > 1:
            reset()

    monkeypatch.setattr(device, "reset", lost_at_first)
    flash(device, payload(NEW))
    assert running(device) == ("tiny 2", True) and len(sent) == 2


def test_a_mistake_in_this_program_leaves_the_old_model(device: Device) -> None:
    flash(device, payload(OLD))

    def mistaken(stage: str, done: int, whole: int) -> None:
        if stage == "golden pictures":
            raise RuntimeError

    with pytest.raises(RuntimeError):
        flash(device, payload(NEW), mistaken)
    assert running(device) == ("tiny 1", True)


def test_a_trial_that_somebody_left_is_ended_first(device: Device) -> None:
    flash(device, payload(OLD))
    other = payload(Tiny(length=5000, seed=7))
    device.upload(other.image)
    device.test(other.digest)
    device.reset()
    device.wait()
    assert running(device) == ("tiny 7", False)
    flash(device, payload(NEW))
    assert running(device) == ("tiny 2", True)


def test_an_own_trial_that_was_cut_off_is_proven_and_confirmed(device: Device) -> None:
    flash(device, payload(OLD))
    new = payload(NEW)
    device.upload(new.image)
    device.test(new.digest)
    device.reset()
    device.wait()
    assert flash(device, new).there_already
    assert running(device) == ("tiny 2", True)


@pytest.mark.parametrize("stage", ["upload", "trial", "golden pictures"])
def test_of_a_device_that_dies_is_said_what_it_will_run(emulated: Emulated, device: Device, stage: str) -> None:
    flash(device, payload(OLD))
    device.link.patience = Patience(0.05, 3)

    def kill(now: str, done: int, whole: int) -> None:
        if now == stage:
            emulated.process.kill()
            emulated.process.wait()

    with pytest.raises(FlashError, match=r"as soon as the device starts again, tiny 1 .* runs on"):
        flash(device, payload(NEW), kill)
    with emulate("host", emulated.flash.parent) as again, connect(again.port) as other:
        assert running(other) == ("tiny 1", True)


def test_a_confirmation_that_nobody_answered_is_said_to_be_unknown(
    emulated: Emulated, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    flash(device, payload(OLD))
    device.link.patience, confirm = Patience(0.05, 3), device.confirm

    def confirm_and_die() -> object:
        confirm()
        emulated.process.kill()
        emulated.process.wait()
        return confirm()

    monkeypatch.setattr(device, "confirm", confirm_and_die)
    with pytest.raises(FlashError, match=r"whether tiny 2 .* was confirmed is not known.*repeat the command"):
        flash(device, payload(NEW))
    with emulate("host", emulated.flash.parent) as again, connect(again.port) as other:
        assert flash(other, payload(NEW)).there_already


def test_a_refused_confirmation_leaves_the_old_model(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    flash(device, payload(OLD))
    monkeypatch.setattr(device, "confirm", device.slots)  # asks and changes nothing
    with pytest.raises(FlashError, match=r"tiny 2 .* was not put in force; tiny 1 .* runs on"):
        flash(device, payload(NEW))
    assert running(device) == ("tiny 1", True)


def test_the_signed_go_to_the_device_of_the_key_and_nothing_else(tmp_path: Path) -> None:
    with emulate("host", tmp_path, Parameters(name="station 3", key=KEY)) as found, connect(found.port) as device:
        for other, why in ((OLD, "give --device-key FILE"), (replace(OLD, key=b"other"), "not signed with the key")):
            with pytest.raises(FlashError, match=why):
                flash(device, payload(other))
        assert running(device) == ("", False)
        assert flash(device, payload(replace(OLD, key=KEY))).name == "station 3"


def test_what_does_not_fit_is_refused_before_anything_is_erased(emulated: Emulated, device: Device) -> None:
    flash(device, payload(replace(OLD, version=5)))
    before = emulated.flash.read_bytes()
    for bad, why in (
        (replace(NEW, version=4), "version 4 is older than 5 in force; give --model-version"),
        (replace(NEW, version=5, length=600_000), "needs 600000 bytes of flash and the device has 524288"),
        (replace(NEW, version=5, arena_extra=1 << 20), "bytes of RAM and the device has 131072"),
        (replace(NEW, version=5, width_px=4096, height_px=1), "needs 4096 bytes a row and the device has 4000"),
        (replace(NEW, version=5, key=KEY), "leave out --device-key"),
    ):
        with pytest.raises(FlashError, match=f"{why}.*nothing was erased: tiny 1 .*runs on"):
            flash(device, payload(bad))
    assert emulated.flash.read_bytes() == before


def test_a_model_for_another_camera_is_named_with_both_sizes() -> None:
    info = Info(1, "b", "", "empty", False, False, False, False, False, 1 << 20, 1 << 20, 4000, 632, 224, 3)
    assert "takes 8x4x1 and the device's camera gives 632x224x3" in str(misfit(payload(OLD), info, None))
    assert misfit(payload(OLD), replace(info, camera_width=8, camera_height=4, camera_channels=0), None) is None
    assert "provision it again" in str(misfit(payload(OLD), replace(info, locked=True), None))


def test_several_devices_are_flashed_at_once_and_one_that_fails_stops_no_other(tmp_path: Path) -> None:
    told: dict[str, str] = {}
    other = Parameters(camera=(8, 8, 1))
    with (
        emulate("host", tmp_path / "a") as a,
        emulate("host", tmp_path / "b", other) as b,
        emulate("host", tmp_path / "c") as c,
    ):
        ports = [a.port, b.port, c.port]
        outcomes = flash_all(ports, payload(OLD), lambda port, stage, done, whole: told.update({port: stage}))
    assert [type(one) for one in outcomes] == [Flashed, FlashError, Flashed]
    assert "camera" in str(outcomes[1])
    assert told[a.port] == told[c.port] == "golden pictures" and b.port not in told


def test_ctrl_c_leaves_the_old_model(emulated: Emulated, device: Device) -> None:
    flash(device, payload(OLD))
    device.link.close()
    pictures = payload(NEW).pictures[:1] * 5000  # more than the device gets through before this thread hears of it

    def interrupt(port: str, stage: str, done: int, whole: int) -> None:
        if stage == "golden pictures" and done == 0:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker of the tests may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            flash_all([emulated.port], payload(NEW, *pictures), interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    with connect(emulated.port) as again:
        assert running(again) == ("tiny 1", True)


def test_one_port_has_one_host(emulated: Emulated, device: Device) -> None:
    (outcome,) = flash_all([emulated.port], payload(OLD), lambda *_: None)
    assert "another program holds it" in str(outcome)
