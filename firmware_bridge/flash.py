"""A model onto a device: fit, upload, trial, proof, confirmation; "flashed" is what went through all of it.

Until the confirmation the old model stays in force: whatever fails before it, a reset or a power
cut brings the old model back. Several devices are flashed at once, each in a thread of its own.
Leaves out: what is flashed (`payload.py`), and showing it (`diagline/cli_device.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial

from diagline.errors import FlashError
from firmware_bridge.device import Device, connect
from firmware_bridge.link import BAUD, NoAnswerError, Patience
from firmware_bridge.payload import Payload, misfit
from firmware_bridge.replies import Info, Model

LOOK_S = 0.2
TRIALS = 3  # a request for a trial, or the reset after it, may be lost
Report = Callable[[str, int, int], object]
"""Called with a stage's name, what of it is done, and the whole."""


@dataclass(frozen=True, slots=True)
class Flashed:
    """A device that runs the model, proven and in force.

    Attributes:
        there_already: the model ran before, and was proven again alone.
        golden, pictures: golden pictures of the image and of the bundle that came out right.
    """

    port: str
    board: str
    name: str
    model: str
    version: int
    bytes: int
    golden: int
    pictures: int
    there_already: bool
    seconds: float


def flash(device: Device, payload: Payload, report: Report = lambda stage, done, whole: None) -> Flashed:
    """Flash a device.

    Raises:
        FlashError: anything did not go well; says which model the device runs now.
    """
    start = time.monotonic()
    info, running = device.info()
    if _on_trial(info) and not _is(payload, running):  # somebody's update that did not end
        device.reset()
        info, running = device.wait()
    if (why := misfit(payload, info, running)) is not None:
        raise FlashError(f"{device.where}: {why}; nothing was erased: {_runs(running)}")
    there_already = _is(payload, running)
    before = "the model in force before it runs" if _on_trial(info) else _runs(running)
    try:
        if not there_already:
            if not device.upload(payload.image, lambda there: report("upload", there, len(payload.image))):
                raise FlashError(f"{device.where}: the device does not say that its flash holds what was sent")
            report("trial", 0, 1)
            _try(device, payload)
        golden = _prove(device, payload, report)
    except FlashError as error:
        raise FlashError(f"{error}; {_left(device, before)}") from error
    except BaseException:
        _left(device, before)
        raise
    _confirm(device, payload, before)
    return Flashed(
        device.where, info.board, info.name, payload.label, payload.header.model_version, len(payload.image), golden,
        len(payload.pictures), there_already, time.monotonic() - start,
    )  # fmt: skip


def _on_trial(info: Info) -> bool:
    return info.boot == "trial" and not info.confirmed


def _is(payload: Payload, running: Model | None) -> bool:
    return running is not None and running.hash == payload.digest


def _try(device: Device, payload: Payload) -> None:
    """Start the new model on trial."""
    for _ in range(TRIALS):
        device.test(payload.digest)
        device.reset()
        info, running = device.wait()
        if _is(payload, running):
            return
        if info.boot == "failed trial" and not any(slot.pending for slot in device.slots()):
            raise FlashError(f"{device.where}: {payload.label} fails its golden pictures on the device")
    raise FlashError(f"{device.where}: {payload.label} is in flash and does not start ({info.boot})")


def _prove(device: Device, payload: Payload, report: Report) -> int:
    """The golden pictures of the image and of the bundle; returns how many of the image there are."""
    report("self-test", 0, 1)
    told = device.selftest()
    if not told.trusted or told.passed != told.golden or told.golden != payload.header.golden_count:
        raise FlashError(
            f"{device.where}: {told.passed} of {payload.header.golden_count} golden pictures came out right on it"
        )
    count = len(payload.pictures)
    for number, picture in enumerate(payload.pictures):
        found = device.judge(picture.input, partial(_tell_picture, report, number, count))
        if found.logit != picture.logit or found.verdict != picture.state.value:
            raise FlashError(
                f"{device.where}: {picture.name} is {found.verdict} with logit {found.logit} on the device; expected "
                f"{picture.state.value} with {picture.logit}, as {payload.oracle} gives it"
            )
    report("golden pictures", count, count)
    return told.golden


def _tell_picture(report: Report, number: int, count: int, row: int) -> None:
    report("golden pictures", number, count)


def _confirm(device: Device, payload: Payload, before: str) -> None:
    try:
        device.confirm()
        info, running = device.info()
        if not _is(payload, running) or not info.confirmed:
            raise FlashError(f"{device.where}: {payload.label} was not put in force")
    except NoAnswerError as error:
        raise FlashError(
            f"{error}; whether {payload.label} was confirmed is not known: the device runs it or the model before, "
            f"whole; repeat the command"
        ) from error
    except FlashError as error:
        raise FlashError(f"{error}; {_left(device, before)}") from error


def _left(device: Device, before: str) -> str:
    """Leave the new model, should it run on trial, and say what runs now."""
    try:
        info, running = device.info()
        if _on_trial(info):
            device.reset()
            info, running = device.wait()
        return f"{_runs(running)}; repeat the command"
    except FlashError:
        return f"not flashed; as soon as the device starts again, {before}; repeat the command then"


def _runs(model: Model | None) -> str:
    return "no model runs, and every part is rejected" if model is None else f"{model.label} runs on"


def flash_all(
    ports: Sequence[str], payload: Payload, report: Callable[[str, str, int, int], object],
    baud: int = BAUD, patience: Patience | None = None,
) -> list[Flashed | FlashError]:  # fmt: skip
    """Flash several devices at once; one that fails stops no other.

    Args:
        report: called with port, stage, done and whole, from several threads.

    Returns:
        By port what became of it.
    """
    stop = threading.Event()

    def one(port: str) -> Flashed:
        def tell(stage: str, done: int, whole: int) -> None:
            if stop.is_set():
                raise FlashError(f"{port}: stopped at {stage}")
            report(port, stage, done, whole)

        with connect(port, baud, patience) as device:
            return flash(device, payload, tell)

    with ThreadPoolExecutor(len(ports)) as threads:
        futures = [threads.submit(one, port) for port in ports]
        try:
            while wait(futures, LOOK_S).not_done:
                pass  # a signal that another thread got is seen here
            return [_outcome(future) for future in futures]
        except BaseException:  # Ctrl-C: each device goes back to its old model before the port is let go
            stop.set()
            raise


def _outcome(future: Future[Flashed]) -> Flashed | FlashError:
    try:
        return future.result()
    except FlashError as error:
        return error
