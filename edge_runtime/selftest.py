"""The golden vectors, run on the box itself before it says PASS.

Every golden picture goes through the same preprocessing and the same engine as a frame will,
and must come out as it did at export: an int8 output within one step, a float within a
thousandth (in bf16 within a twentieth), and always the same verdict. Leaves out: what a box does
that failed (`loop.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from diagline.bundle import Bundle, Format, Golden
from diagline.preprocess import preprocess
from diagline.verdict import decide
from edge_runtime.engines.engine import OPENVINO_BF16, Engine

INT8_STEPS = 1  # XNNPACK and ONNX Runtime round once, the reference kernels twice
FLOAT_SHARE = 1e-3
BF16_SHARE = 0.05  # eight bits of mantissa: up to 0.03 was seen on students; such an engine is only timed


@dataclass(frozen=True, slots=True)
class SelfTest:
    """What the golden vectors said.

    Attributes:
        checked: golden pictures run.
        failures: one line for each that came out differently; empty when all is well.
    """

    checked: int
    failures: tuple[str, ...]

    @property
    def fault(self) -> str | None:
        """One line that says what failed, or None."""
        if not self.failures:
            return None
        return f"self-test failed on {len(self.failures)} of {self.checked} golden pictures: {self.failures[0]}"


def self_test(bundle: Bundle, format_name: str, engine: Engine) -> SelfTest:
    """Run a bundle's golden vectors through `preprocess` and `engine`.

    A bundle without golden vectors fails: nothing would have been shown. Whatever an engine
    throws is a failure of its picture.
    """
    if not bundle.golden:
        return SelfTest(0, (f"{bundle.root}: holds no golden pictures; export the bundle again",))
    failures = []
    for golden in bundle.golden:
        try:
            failure = _check(bundle, golden, format_name, engine)
        except Exception as error:  # a dead engine is what this test is there to find
            failure = f"{type(error).__name__}: {error}"
        if failure is not None:
            failures.append(f"{golden.image}: {failure}")
    return SelfTest(len(bundle.golden), tuple(failures))


def tolerance(fmt: Format, expected: float, engine: str | None = None) -> float:
    """How far an engine's output may lie from its golden value, in the format's own domain; None: any but bf16."""
    if fmt.output_dtype == "int8":
        return INT8_STEPS
    return (BF16_SHARE if engine == OPENVINO_BF16 else FLOAT_SHARE) * max(1.0, abs(expected))


def difference(format_name: str, fmt: Format, engine: str, expected: float, found: float) -> str | None:
    """What an output differs by from its golden value more than is allowed, or None."""
    allowed = tolerance(fmt, expected, engine)
    if not math.isfinite(found) or abs(found - expected) > allowed:
        return f"{format_name} on {engine} gives {found:g}, expected {expected:g} within {allowed:g}"
    if decide(found, fmt.threshold) is not decide(expected, fmt.threshold):
        return f"{format_name} on {engine} gives {found:g}, expected {expected:g}: threshold {fmt.threshold:g} flips"
    return None


def _check(bundle: Bundle, golden: Golden, format_name: str, engine: Engine) -> str | None:
    fmt = bundle.manifest.formats[format_name]
    if format_name not in golden.outputs:
        return f"no golden output for {format_name}"
    found = engine.infer(preprocess(bundle.golden_frame(golden), bundle.manifest.input))
    return difference(format_name, fmt, engine.name, golden.outputs[format_name], found)
