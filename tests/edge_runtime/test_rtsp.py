"""An RTSP camera that is killed and comes back is taken up again by itself, and its password is never said.

The camera is GStreamer's RTSP server (`support/rtsp_camera.py`), run by the system's own Python.
"""

from __future__ import annotations

import base64
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diagline.errors import CameraError
from edge_runtime.camera import CameraConfig, Frame, WatchedCamera, open_camera, watch

SERVER = Path(__file__).resolve().parents[1] / "support" / "rtsp_camera.py"
SYSTEM_PYTHON = "/usr/bin/python3"
USER, PASSWORD = "line", "never-said"


@pytest.fixture
def port() -> int:
    """A free one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def rtsp_camera(port: int) -> Iterator[subprocess.Popen[str]]:
    """The camera, listening; killed at the end."""
    if shutil.which(SYSTEM_PYTHON) is None or not SERVER.exists():
        pytest.skip(f"{SYSTEM_PYTHON} or {SERVER.name} is not at hand")
    command = [SYSTEM_PYTHON, "-I", str(SERVER), str(port), USER, PASSWORD]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline().strip()
        if said != "listening" and process.wait() == 3:
            pytest.skip(
                f"no RTSP server ({said}); apt-get install gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good"
            )
        assert said == "listening"
        yield process
    finally:
        process.kill()
        process.communicate()


def secrets_in(*told: object) -> list[str]:
    """What of the credentials is in any of these."""
    told_text = repr(told)
    encoded = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    return [secret for secret in (PASSWORD, encoded) if secret in told_text]


def test_a_camera_that_is_killed_and_comes_back_is_taken_up_again_and_its_password_is_never_said(
    port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    frames: list[Frame] = []

    def read(camera: WatchedCamera, until: Callable[[], bool]) -> None:
        for _ in range(1000):
            frame = camera.read(1.0)
            assert frame is not None
            frames.append(frame)
            if until():
                return
        raise AssertionError(camera.health())

    with watch(CameraConfig(f"rtsp://{USER}:{PASSWORD}@127.0.0.1:{port}/live", timeout_s=5.0)) as camera:
        with rtsp_camera(port):
            read(camera, lambda: sum(frame.frame_bgr is not None for frame in frames) == 10)
            assert camera.health().state == "live"
        read(camera, lambda: camera.health().state == "lost" and frames[-1].frame_bgr is None)
        with rtsp_camera(port):
            read(camera, lambda: camera.health().state == "live" and frames[-1].frame_bgr is not None)
        health = camera.health()
    assert health.reconnects >= 1 and sum(health.losses.values()) >= 1 and not health.refused
    numbers = [frame.number for frame in frames]
    assert numbers == sorted(set(numbers))
    assert not secrets_in(health, [frame.cause for frame in frames], capfd.readouterr())


def test_a_wrong_password_opens_nothing_and_is_not_said(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    with rtsp_camera(port):
        address = f"127.0.0.1:{port}/live"
        with open_camera(
            f"rtsp://{USER}:{PASSWORD}@{address}", timeout_s=20.0
        ) as camera:  # so it is the password alone
            frame = camera.read()
            assert frame is not None and frame.frame_bgr is not None
        with pytest.raises(CameraError, match="check address, user and password") as refusal:
            open_camera(f"rtsp://{USER}:{PASSWORD}-not@{address}", timeout_s=20.0)
    assert not secrets_in(str(refusal.value), capfd.readouterr())
