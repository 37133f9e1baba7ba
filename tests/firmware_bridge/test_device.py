"""What the device promises on the wire: pictures, verdicts, its self-test, what it refuses, what a reset leaves."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from firmware_bridge.proof.tiny import Tiny

pytest.importorskip("smp", reason="smp is not installed: pip install 'diagline[firmware]'")
pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: apt-get install gcc")

import cbor2  # noqa: E402
import serial  # noqa: E402
from line_device import IMAGE, INSPECT, OS, READ, WRITE, Line, device, process  # noqa: E402

from firmware_bridge.proof.fuzz import framed, message  # noqa: E402
from firmware_bridge.provision import Parameters  # noqa: E402

MODEL = Tiny(width_px=8, height_px=4, length=9000, seed=1, version=2)
KEY = bytes(range(32))
SLOTS_AT = 4 * 4096  # firmware/flash_map.h
GOOD, BAD = bytes([10]) * 32, bytes([240]) * 32


def provisioned(flash: Path, parameters: Parameters) -> Path:
    """A flash file of a device that leaves the factory so."""
    with process(flash):
        pass
    with flash.open("r+b") as stream:
        stream.write(parameters.encode())
    return flash


def refusal(reply: dict[str, object]) -> object:
    err = reply.get("err")
    return err["rc"] if isinstance(err, dict) else reply.get("rc")


def test_a_picture_pushed_in_rows_gets_its_logit_and_verdict(tmp_path: Path) -> None:
    with device(tmp_path / "flash.bin") as line:
        line.flash(MODEL.build())
        good, bad = line.inspect(GOOD), line.inspect(BAD, number=2)
    assert (good["verdict"], good["logit"], good["gate"]) == ("PASS", 10 - 128, True)
    assert (bad["verdict"], bad["logit"], bad["gate"], bad["pic"]) == ("REJECT", 240 - 128, False, 2)


def test_requests_whose_reply_was_lost_can_be_sent_again(tmp_path: Path) -> None:
    with device(tmp_path / "flash.bin") as line:
        line.flash(MODEL.build())
        line.ask(INSPECT, 1, pic=7)
        assert line.ask(INSPECT, 2, pic=7, row=0, data=GOOD[:16]) == {"row": 2}
        assert line.ask(INSPECT, 2, pic=7, row=0, data=GOOD[:16]) == {"row": 2}
        assert line.ask(INSPECT, 2, pic=7, row=3, data=GOOD[:8]) == {"row": 2}, "a row was lost: go back"
        assert refusal(line.ask(INSPECT, 3, pic=7)) == 3, "rows are missing"
        assert line.ask(INSPECT, 2, pic=7, row=1, data=GOOD[8:]) == {"row": 4}
        first = line.ask(INSPECT, 3, pic=7)
        assert line.ask(INSPECT, 3, pic=7) == first
        assert line.ask(INSPECT, 5)["passes"] == 1


def test_the_last_piece_of_an_upload_can_be_sent_again(tmp_path: Path) -> None:
    image = MODEL.build()
    with device(tmp_path / "flash.bin") as line:
        done = line.upload(image, piece=1000)
        assert done == {"off": len(image), "match": True}
        at = len(image) - len(image) % 992
        assert line.ask(IMAGE, 1, off=at, data=image[at:]) == done
        assert line.ask(IMAGE, 1, off=0, data=image[:1000], len=len(image), sha=sha256(image).digest()) == done
        assert refusal(line.ask(IMAGE, 1, off=at, data=image[at:-1])) == 20, "not the last piece of what is there"


def test_rows_of_another_picture_or_another_size_are_refused(tmp_path: Path) -> None:
    with device(tmp_path / "flash.bin") as line:
        line.flash(MODEL.build())
        line.ask(INSPECT, 1, pic=7)
        assert refusal(line.ask(INSPECT, 2, pic=8, row=0, data=GOOD[:8])) == 2
        assert refusal(line.ask(INSPECT, 2, pic=7, row=0, data=GOOD[:9])) == 3
        assert refusal(line.ask(INSPECT, 2, pic=7, row=0, data=bytes(8 * 5))) == 3
        assert refusal(line.ask(INSPECT, 2, pic=7, row=2**32 - 1, data=GOOD[:16])) == 3


def test_the_gate_opens_for_a_confirmed_pass_alone_and_for_half_a_second(tmp_path: Path) -> None:
    with device(tmp_path / "flash.bin") as line:
        image = MODEL.build()
        line.upload(image)
        line.ask(IMAGE, 0, hash=image[-64:-32])
        line.reboot()
        assert (line.info()["boot"], line.inspect(GOOD)["gate"]) == ("trial", False)
        line.ask(IMAGE, 0, confirm=True)
        assert line.inspect(BAD)["gate"] is False
        assert line.inspect(GOOD)["gate"] is True
        assert line.info()["gate"] is True
        line.ask(INSPECT, 1, pic=9)
        assert line.info()["gate"] is False, "the next picture closes it"
        assert line.inspect(GOOD)["gate"] is True
        line.ask(IMAGE, 0)
        assert line.info()["gate"] is False, "whoever touches images closes it"
        assert line.inspect(GOOD)["gate"] is True
        line.port.reset_input_buffer()
        line.say("name%")
        assert line.info()["gate"] is False, "a benchmark closes it"
        assert line.inspect(GOOD)["gate"] is True
        opened = line.ask(INSPECT, 5)["uptime_us"]
        while line.info()["gate"]:
            assert line.ask(INSPECT, 5)["uptime_us"] < opened + 5_000_000


def test_a_model_that_fails_its_golden_pictures_is_left_at_once(tmp_path: Path) -> None:
    with device(tmp_path / "flash.bin") as line:
        line.flash(MODEL.build())
        wrong = replace(MODEL, seed=5, wrong_golden=True).build()
        assert line.upload(wrong)["match"] is True
        line.ask(IMAGE, 0, hash=wrong[-64:-32], confirm=True)
        line.reboot()
        info = line.info()
        assert (info["boot"], info["hash"], info["trusted"]) == ("failed trial", MODEL.build()[-64:-32], True)
        assert line.ask(INSPECT, 4, write=True) == {"passed": 3, "golden": 3, "trusted": True}


def test_a_model_in_force_that_fails_its_golden_pictures_decides_nothing(tmp_path: Path) -> None:
    flash, wrong = tmp_path / "flash.bin", replace(MODEL, wrong_golden=True).build()
    with device(flash) as line:
        line.flash(MODEL.build())
    with flash.open("r+b") as stream:  # as if the processor had begun to calculate otherwise
        stream.seek(SLOTS_AT)
        stream.write(wrong)
    with device(flash) as line:
        assert (line.info()["confirmed"], line.info()["trusted"]) == (True, False)
        verdict = line.inspect(GOOD)
        assert (verdict["verdict"], verdict["gate"]) == ("NO_DECISION", False)


def test_a_permanent_request_is_confirmed_by_the_device_itself(tmp_path: Path) -> None:
    with device(tmp_path / "flash.bin") as line:
        image = MODEL.build()
        line.upload(image)
        line.ask(IMAGE, 0, hash=image[-64:-32], confirm=True)
        line.reboot()
        assert (line.info()["boot"], line.info()["confirmed"]) == ("trial", True)


def test_only_images_signed_with_its_key_are_accepted(tmp_path: Path) -> None:
    flash = provisioned(tmp_path / "flash.bin", Parameters(name="station 3", key=KEY))
    with device(flash) as line:
        assert (line.info()["signed"], line.info()["name"]) == (True, "station 3")
        assert refusal(line.upload(MODEL.build())) == 64
        assert refusal(line.upload(replace(MODEL, key=b"another").build())) == 64
        line.flash(replace(MODEL, key=KEY).build())
    with device(tmp_path / "development.bin") as line:
        assert refusal(line.upload(replace(MODEL, key=KEY).build())) == 64


def test_a_model_for_another_camera_is_refused_before_anything_is_erased(tmp_path: Path) -> None:
    flash = provisioned(tmp_path / "flash.bin", Parameters(camera=(8, 4, 1)))
    with device(flash) as line:
        before = flash.read_bytes()
        assert refusal(line.upload(replace(MODEL, width_px=16).build())) == 65
        assert flash.read_bytes() == before
        line.flash(MODEL.build())


def test_damaged_parameters_lock_the_device(tmp_path: Path) -> None:
    flash = provisioned(tmp_path / "flash.bin", Parameters(key=KEY))
    with device(flash) as line:
        line.flash(replace(MODEL, key=KEY).build())
    with flash.open("r+b") as stream:
        stream.seek(60)
        stream.write(b"\0")
    with device(flash) as line:
        assert (line.info()["locked"], line.info()["boot"]) == (True, "empty")
        assert refusal(line.upload(MODEL.build())) == 66


def test_an_upload_goes_on_after_a_power_cut_where_it_was(tmp_path: Path) -> None:
    image = replace(MODEL, length=40_000).build()
    first = {"off": 0, "data": image[:1024], "len": len(image), "sha": sha256(image).digest()}
    with device(tmp_path / "flash.bin") as line:
        reply = line.ask(IMAGE, 1, **first)
        while reply["off"] < 30_000:
            reply = line.ask(IMAGE, 1, off=reply["off"], data=image[reply["off"] :][:1024])
    with device(tmp_path / "flash.bin") as line:
        assert refusal(line.ask(IMAGE, 1, off=reply["off"], data=image[reply["off"] :][:1024])) == 20
        assert line.ask(IMAGE, 1, **first) == {"off": 28_672}
        line.flash(image)


def test_a_cut_of_the_process_in_a_flash_operation_leaves_the_old_model(tmp_path: Path) -> None:
    new = replace(MODEL, seed=9).build()
    with device(tmp_path / "flash.bin") as line:
        line.flash(MODEL.build())
    with process(tmp_path / "flash.bin", **os.environ, DIAGLINE_CUT_AT="100") as (running, path):
        with serial.Serial(path, timeout=30) as port, pytest.raises((AssertionError, serial.SerialException)):
            Line(port).upload(new)
        assert running.wait(30) == 137
    with device(tmp_path / "flash.bin") as line:
        assert line.info()["hash"] == MODEL.build()[-64:-32]
        line.flash(new)


def test_both_protocols_share_the_port(tmp_path: Path) -> None:
    with device(tmp_path / "flash.bin") as line:
        line.flash(MODEL.build())
        line.port.reset_input_buffer()
        assert line.say("name%") == ["m-name-dut-[host]"]
        assert line.say("profile%") == ["m-profile-[ULPMark for tinyML Firmware V0.0.1]", "m-model-[tiny 1]"]
        assert line.say("nonsense 3%") == ["e-[Unknown command: nonsense]"]
        assert line.say("infer 1%") == ["e-[Load a picture of 32 bytes first]"]
        assert line.say("db load 32%") == ["m-[Expecting 32 bytes]"]
        assert line.say(f"db {bytes(31).hex()}%") == []
        assert line.info()["model"] == "tiny 1", "a request between two commands"
        assert line.say("db 20%") == ["m-load-done"]
        assert line.say("db print%")[-1] == "m-buffer-" + "-".join(["00"] * 15 + ["20"])
        lines = line.say("infer 3 1%")
        assert [one.rstrip("0123456789") for one in lines[:5]] == [
            "m-warmup-start-", "m-warmup-done", "m-infer-start-", "m-lap-us-", "m-lap-us-",
        ]  # fmt: skip
        assert lines[5:] == ["m-infer-done", "m-results-[-63.500]"], "logit -127 at a scale of 0.5"
        assert line.say("results%") == ["m-results-[-63.500]"]
        assert line.info()["gate"] is False


def test_a_cable_out_at_any_byte_of_a_request_does_not_spoil_the_next(tmp_path: Path) -> None:
    with device(tmp_path / "flash.bin") as line:
        echo = framed(message(WRITE, OS, 0, cbor2.dumps({"d": "x" * 120})))
        for cut in range(len(echo)):
            line.port.write(echo[:cut])
            assert line.ask(OS, 0, d=f"{cut}") == {"r": f"{cut}"}


@pytest.mark.parametrize(
    ("group", "command", "body"),
    [(OS, 0, b"\xa0"), (OS, 9, b"\xa0"), (IMAGE, 1, b"\xa1\x63off\xff"), (INSPECT, 1, b"\x80"), (9, 0, b"\xa0")],
    ids=["no_text", "no_such_command", "not_whole", "no_map", "no_such_group"],
)
def test_a_malformed_request_is_answered_with_an_error(group: int, command: int, body: bytes, tmp_path: Path) -> None:
    with device(tmp_path / "flash.bin") as line:
        line.port.write(framed(message(WRITE, group, command, body)))
        assert line.receive() == {"rc": 8 if command == 9 or group == 9 else 3}


def test_a_message_that_is_longer_than_it_says_gets_no_answer(tmp_path: Path) -> None:
    with device(tmp_path / "flash.bin") as line:
        line.port.write(framed(message(READ, OS, 6, b"\xa0") + b"\0"))
        assert line.ask(OS, 0, d="next") == {"r": "next"}


def test_hosts_of_the_first_protocol_version_get_errors_they_know(tmp_path: Path) -> None:
    with device(tmp_path / "flash.bin") as line:
        asked = message(WRITE, IMAGE, 0, cbor2.dumps({"hash": bytes(32)}))
        line.port.write(framed(asked))
        assert line.receive() == {"err": {"group": 1, "rc": 8}}
        line.port.write(framed(bytes([WRITE]) + asked[1:]))
        assert line.receive() == {"rc": 1}
