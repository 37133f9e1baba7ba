"""The firmware under libFuzzer with sanitizers: whatever comes over the wire or poses as an image, nothing breaks."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from firmware_bridge.proof import fuzz


@pytest.fixture(scope="module", autouse=True)
def _fuzzer_is_installed() -> None:
    if shutil.which("clang") is None:
        pytest.skip("no clang: apt-get install clang libclang-rt-dev")
    probe = ["clang", "-x", "c", "-fsanitize=fuzzer,address", "-o", "/dev/null", "-"]
    source = b"int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return d[n] != 0; }"
    if subprocess.run(probe, input=source, capture_output=True, check=False).returncode != 0:
        pytest.skip("clang has no libFuzzer: apt-get install libclang-rt-dev")


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_no_input_breaks_the_firmware(target: str) -> None:
    assert fuzz.run(target, runs=3000) >= 3000


@pytest.mark.soak
@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_no_input_breaks_the_firmware_in_five_minutes(target: str) -> None:
    assert fuzz.run(target, seconds=300) > 10_000
