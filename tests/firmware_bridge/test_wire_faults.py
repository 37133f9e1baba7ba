"""A wire that hurts a byte, a cable that is out: success or an error, a whole model, and the next attempt succeeds."""

from __future__ import annotations

import os
import pty
import random
import shutil
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("smp", reason="smp is not installed: pip install 'diagline[firmware]'")
pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler: apt-get install gcc")

import wire as wires  # noqa: E402
from flash_payloads import payload  # noqa: E402
from wire import Fault, clean, wire  # noqa: E402

from diagline.errors import FlashError  # noqa: E402
from firmware_bridge.device import connect  # noqa: E402
from firmware_bridge.emulation.emulator import emulate  # noqa: E402
from firmware_bridge.flash import flash  # noqa: E402
from firmware_bridge.link import NoAnswerError, Patience  # noqa: E402
from firmware_bridge.payload import Payload  # noqa: E402
from firmware_bridge.proof.tiny import Tiny  # noqa: E402

MODELS = tuple(payload(Tiny(length=900, seed=seed)) for seed in (1, 2))
QUICK, MANY, EVERY = 8, 300, 1 << 30  # places of each kind of fault, each way
HURRIED = Patience(again_s=0.05, tries=100)
FAULTS = [wires.drop, wires.double, wires.flip, wires.swap]


@pytest.fixture
def port(tmp_path: Path) -> Iterator[str]:
    """A device that runs the second of `MODELS`."""
    with emulate("host", tmp_path) as found:
        with connect(found.port, patience=HURRIED) as device:
            flash(device, MODELS[1])
        yield found.port


def lengths(port: str) -> tuple[int, int]:
    """Bytes of a flash without faults, each way."""
    with wire(port) as found:
        with connect(found.port, patience=HURRIED) as device:
            flash(device, MODELS[0])
            flash(device, MODELS[1])
        return found.to_device // 2, found.to_host // 2


def runs_whole(port: str) -> Payload:
    """The model that is in force, after its self-test; one on trial is left by a reset, as by a power cut."""
    with connect(port, patience=HURRIED) as device:
        info, model = device.info()
        if not info.confirmed:
            assert not info.gate
            device.reset()
            info, model = device.wait()
        assert model is not None and info.confirmed, info
        told = device.selftest()
        assert told.passed == told.golden == 3 and told.trusted
        return next(one for one in MODELS if one.digest == model.hash)


def attempt(port: str, model: Payload, to_device: Fault, to_host: Fault) -> bool:
    """Whether a flash over a faulty wire went well; what it left is checked, and the next attempt."""
    before = runs_whole(port)
    assert before is not model
    try:
        with wire(port, to_device, to_host) as found, connect(found.port, patience=HURRIED) as device:
            flash(device, model)
    except FlashError:
        assert runs_whole(port) in (before, model)
    else:
        assert runs_whole(port) is model
        return True
    with connect(port, patience=HURRIED) as device:
        flash(device, model)
    assert runs_whole(port) is model
    return False


def every_place(port: str, fault: Callable[[int], Fault], count: int) -> list[bool]:
    """A flash for each of `count` places of the fault each way, or for all of them."""
    outcomes = []
    for direction, length in enumerate(lengths(port)):
        for at in range(0, length, max(1, length // count)):
            hurt = (fault(at), clean) if direction == 0 else (clean, fault(at))
            outcomes.append(attempt(port, MODELS[len(outcomes) % 2], *hurt))
    return outcomes


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault.__name__))
def test_a_hurt_byte_is_asked_for_again(port: str, fault: Callable[[int], Fault]) -> None:
    assert all(every_place(port, fault, QUICK))


def test_a_cable_out_at_any_byte_leaves_a_whole_model(port: str) -> None:
    outcomes = every_place(port, wires.cut, QUICK)
    assert not any(outcomes) and len(outcomes) >= 2 * QUICK


@pytest.mark.soak
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault.__name__))
def test_a_byte_hurt_in_any_of_many_places_is_asked_for_again(port: str, fault: Callable[[int], Fault]) -> None:
    assert all(every_place(port, fault, MANY))


@pytest.mark.soak
def test_a_cable_out_at_every_single_byte_leaves_a_whole_model(port: str) -> None:
    outcomes = every_place(port, wires.cut, EVERY)
    assert not any(outcomes) and len(outcomes) == sum(lengths(port))


@pytest.mark.parametrize("seed", range(2))
def test_noise_on_the_whole_wire_is_come_through(port: str, seed: int) -> None:
    noise = random.Random(seed)

    def noisy(number: int, byte: int) -> bytes:
        if noise.random() >= 0.002:
            return bytes([byte])
        return noise.choice([b"", bytes([byte, byte]), bytes([byte ^ 1 << noise.randrange(8)])])

    with wire(port, noisy, noisy) as found, connect(found.port, patience=HURRIED) as device:
        flash(device, MODELS[0])
    assert runs_whole(port) is MODELS[0]


def test_another_baud_rate_is_an_error_that_names_it(port: str) -> None:
    noise = random.Random(0)
    garble: Fault = lambda number, byte: bytes([noise.randrange(256)])  # noqa: E731
    with (
        wire(port, garble, garble) as found,
        connect(found.port, patience=Patience(0.05, 4)) as device,
        pytest.raises(NoAnswerError, match=r"no answer to info, asked 4 times.*115200 baud; check.*--baud"),
    ):
        flash(device, MODELS[0])
    assert runs_whole(port) is MODELS[1]


def test_a_port_where_nobody_answers_is_an_error_that_says_so() -> None:
    host, port = pty.openpty()
    tty.setraw(port)
    try:
        with (
            connect(os.ttyname(port), patience=Patience(0.05, 3)) as device,
            pytest.raises(NoAnswerError, match="no answer to info, asked 3 times"),
        ):
            device.info()
    finally:
        os.close(host)
        os.close(port)


@pytest.mark.parametrize("operation", range(1, 46, 4))
def test_power_that_goes_in_a_flash_operation_ends_in_an_error_and_then_in_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: int
) -> None:
    with emulate("host", tmp_path) as found, connect(found.port, patience=HURRIED) as device:
        flash(device, MODELS[0])
    monkeypatch.setenv("DIAGLINE_CUT_AT", str(operation))
    with emulate("host", tmp_path) as found:
        try:
            with connect(found.port, patience=Patience(0.1, 3)) as device:
                flash(device, MODELS[1])
        except FlashError:
            assert found.process.wait(30) == 137
    monkeypatch.delenv("DIAGLINE_CUT_AT")
    with emulate("host", tmp_path) as found:
        with connect(found.port, patience=HURRIED) as device:
            _, model = device.info()
            assert model is not None and model.hash in [one.digest for one in MODELS]
            flash(device, MODELS[1])
        assert runs_whole(found.port) is MODELS[1]
