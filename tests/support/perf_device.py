"""A foreign device that speaks MLPerf Tiny's serial protocol, with a clock that only inferences move."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from served_pty import served


@dataclass
class Perf:
    """What it is and what it got.

    Attributes:
        infer_us: of one inference.
        garbage: what stands in its buffer of commands when the host comes.
        mute: the command that it does not answer.
    """

    port: str = ""
    infer_us: int = 2500
    input_bytes: int = 100
    garbage: str = ""
    mute: str = "-"
    clock_us: int = 7
    expected: int = 0
    loaded: bytes = b""

    def answer(self, command: str) -> list[str]:
        """The lines of a reply, m-ready left out."""
        match command.split():
            case ["name"]:
                return ["m-name-dut-[foreign board]"]
            case ["profile"]:
                return ["m-profile-[ULPMark for tinyML Firmware V0.0.1]", "m-model-[vww01]"]
            case ["timestamp"]:
                return [f"m-lap-us-{self.clock_us}"]
            case ["db", "load", count]:
                self.expected, self.loaded = int(count), b""
                return [f"m-[Expecting {count} bytes]"]
            case ["db", digits]:
                assert len(command) <= 80
                self.loaded += bytes.fromhex(digits)
                return ["m-load-done"] if len(self.loaded) == self.expected else []
            case ["infer", times, warm_up]:
                if len(self.loaded) != self.input_bytes:
                    return [f"e-[Load {self.input_bytes} bytes]"]
                start = self.clock_us = self.clock_us + int(warm_up) * self.infer_us
                self.clock_us += int(times) * self.infer_us
                laps = [f"m-lap-us-{start}", f"m-lap-us-{self.clock_us}"]
                begin = [f"m-warmup-start-{warm_up}", "m-warmup-done", f"m-infer-start-{times}"]
                return [*begin, *laps, "m-infer-done", "m-results-[0.125,0.875]"]
            case ["results"]:
                return ["m-results-[0.125,0.875]"]
        return [f"e-[Unknown command: {command}]"]


@contextmanager
def perf_device(device: Perf) -> Iterator[Perf]:
    """The device on a pty, as long as the block runs."""
    text = device.garbage

    def answer(data: bytes) -> bytes:
        nonlocal text
        *commands, text = (text + data.decode()).split("%")
        lines = []
        for command in commands:
            if command.split()[0] != device.mute:
                lines += [*device.answer(command), "m-ready"]
        return "".join(f"{line}\r\n" for line in lines).encode()

    with served(answer) as device.port:
        yield device
