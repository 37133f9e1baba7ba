"""The camera loop: frame, preprocess, engine, verdict, log; exactly one verdict a frame.

Whatever goes wrong on the way is NO_DECISION with its cause, and so is everything on a box that
failed its self-test: PASS needs evidence. Leaves out: a trigger of its own (every frame is
one), deadlines, the gate and taking up a lost camera.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import numpy as np

from diagline.bundle import Bundle
from diagline.console import command, console
from diagline.errors import BundleError
from diagline.preprocess import preprocess
from diagline.verdict import State, Verdict, decide
from edge_runtime.camera.frames import Camera, Frame
from edge_runtime.engines.choice import engines_of, open_engine
from edge_runtime.engines.engine import Engine
from edge_runtime.selftest import self_test
from edge_runtime.sinks import JsonLog, JsonPrinter, LinePrinter, Sink, sinks

__all__ = [
    "Counts", "Inspector", "JsonLog", "JsonPrinter", "LinePrinter", "Sink", "fastest", "open_inspector", "run", "sinks",
]  # fmt: skip

WARM_UP = 10
UNTIMED = ("tflite_int8", "onnx_int8", "onnx_fp32")
"""Which format runs as the fastest where nothing was timed: the first that is verified."""


class Inspector:
    """One format of a bundle on one engine, self-tested and warm.

    Attributes:
        fault: why this box says NO_DECISION to everything; None when its self-test passed.
        threshold: REJECT at or above, in the format's own numbers.
    """

    def __init__(self, bundle: Bundle, format_name: str, engine: Engine) -> None:
        """Run the golden vectors, then a few pictures more to warm up."""
        self.bundle, self.format_name, self.engine = bundle, format_name, engine
        self._contract = bundle.manifest.input
        self.threshold = bundle.manifest.formats[format_name].threshold
        self._model = bundle.model
        self.fault = self_test(bundle, format_name, engine).fault
        if self.fault is None:
            grey = np.full(self._contract.shape, 128, np.uint8)
            for _ in range(WARM_UP):
                engine.infer(grey)

    def inspect(self, frame: Frame) -> Verdict:
        """The verdict on one frame; never raises, and never PASS without a finite output below the threshold."""
        stamps = {"taken": frame.taken_ns, "received": time.monotonic_ns()}
        logit, cause, stage = None, self.fault or frame.cause, "preprocess"
        if cause is None and frame.frame_bgr is not None:
            try:
                image_u8 = preprocess(frame.frame_bgr, self._contract)
                stamps["preprocessed"] = time.monotonic_ns()
                stage = self.engine.name
                logit = self.engine.infer(image_u8)
                stamps["inferred"] = time.monotonic_ns()
                if not math.isfinite(logit):
                    logit, cause = None, f"{stage}: the output is {logit}"
            except Exception as error:  # whatever it is, the part gets its verdict
                logit, cause = None, f"{stage}: {type(error).__name__}: {' '.join(str(error).split())}"
        state = State.NO_DECISION if logit is None else decide(logit, self.threshold)
        stamps["decided"] = time.monotonic_ns()
        return Verdict(
            part_id=frame.part_id,
            state=state,
            logit=logit,
            threshold=self.threshold,
            model=self._model,
            taken_utc=frame.taken_utc,
            cause=cause,
            stamps_ns=stamps,
        )


def fastest(bundle: Bundle) -> tuple[str, str]:
    """The format and engine that were timed as the fastest, or those that run while nothing was timed.

    Raises:
        BundleError: no format was verified on any engine.
    """
    if bundle.manifest.fastest is not None:
        return bundle.manifest.fastest
    for name in UNTIMED:
        fmt = bundle.manifest.formats.get(name)
        if fmt is not None and fmt.engines:
            return name, fmt.engines[0]
    raise BundleError(f"{bundle.root}: no format is verified on an engine; export it again where one runs it")


def open_inspector(
    bundle: Bundle, format_name: str = "fastest", threads: int = 2, engine: str | None = None
) -> Inspector:
    """Open a format of a bundle for inspection.

    Args:
        format_name: a format of the bundle, or "fastest" (`fastest`; says so where nothing was timed).
        threads: processor threads of one inference.
        engine: one of the engines the format was verified on; None means its own.

    Raises:
        BundleError: no such format, a file that is not what the manifest says, or an engine
            that did not give this file's verdicts at export.
        MissingExtraError: the engine's library is not installed.
    """
    if format_name == "fastest":
        format_name, engine = fastest(bundle)
        if bundle.manifest.fastest is None:
            console.print(
                f"{bundle.root}: nothing was timed yet, so {format_name} runs on {engine}; "
                f"next: {command()} bench {bundle.root} --record",
                soft_wrap=True,
            )
    path, fmt = bundle.path(format_name), bundle.manifest.formats[format_name]
    engine = engine or engines_of(format_name)[0]
    if engine not in fmt.engines:
        verified = ", ".join(fmt.engines) or "none"
        raise BundleError(
            f"{path}: not verified on {engine}; expected one of its verified engines ({verified}); export it again"
        )
    opened = open_engine(path, format_name, fmt, bundle.manifest.input, engine, threads)
    return Inspector(bundle, format_name, opened)


@dataclass(slots=True)
class Counts:
    """Verdicts so far. A trigger is counted with its verdict, in one step, so they reconcile at every moment.

    Attributes:
        dropped: frames that a newer one replaced before they triggered.
    """

    states: Counter[State] = field(default_factory=Counter)
    dropped: int = 0

    @property
    def triggers(self) -> int:
        """Frames that got a verdict: PASS + REJECT + NO_DECISION."""
        return self.states.total()

    def __str__(self) -> str:
        parts = ", ".join(f"{self.states[state]} {state.value}" for state in State)
        return f"{self.triggers} frames: {parts}" + (f"; {self.dropped} dropped" if self.dropped else "")


def run(inspector: Inspector, camera: Camera, sinks: Sequence[Sink], limit: int | None = None) -> Counts:
    """Inspect frames until the source ends, `limit` verdicts are given, or Ctrl-C (or SIGTERM).

    An interrupt waits for the verdict under way, so every frame taken has one and every record is whole.

    Args:
        sinks: called in order with each verdict.
        limit: stop after so many frames; None means at the end of the source.

    Raises:
        CameraError: the source stopped for good; its last verdict said so.
        OutputError: a sink cannot write; the verdict it could not write is the last.
    """
    counts = Counts()
    with _interrupts() as interrupt:
        while not interrupt.asked and (limit is None or counts.triggers < limit):
            frame = None
            try:
                with interrupt.allowed():
                    frame = camera.read()
            except KeyboardInterrupt:
                interrupt.asked = True
            if frame is None:
                break
            verdict = inspector.inspect(frame)
            counts.states[verdict.state] += 1
            counts.dropped = camera.dropped
            for sink in sinks:
                sink(verdict)
    return counts


class _Interrupt:
    """Ctrl-C as a note to the loop, or as KeyboardInterrupt while it only waits for a frame."""

    def __init__(self) -> None:
        self.asked = False
        self._waiting = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._waiting or self.asked:  # asked twice: something hangs
            raise KeyboardInterrupt
        self.asked = True

    @contextmanager
    def allowed(self) -> Iterator[None]:
        self._waiting = True
        try:
            yield
        finally:
            self._waiting = False


@contextmanager
def _interrupts() -> Iterator[_Interrupt]:
    interrupt = _Interrupt()
    if threading.current_thread() is not threading.main_thread():  # only the main thread hears signals
        yield interrupt
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
