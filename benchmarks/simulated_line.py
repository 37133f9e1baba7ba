"""What stands around the box of `line_soak.py`: pictures, a camera that fails as it is told, a broker, a PLC.

Leaves out: the network that judges (`soak_bundle.py`), and the faults themselves.
"""

from __future__ import annotations

import queue
import socket
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diagline.errors import CameraError
from diagline.preprocess import InputContract
from edge_runtime.camera.frames import Closing, Frame, stamp

SEED, POOL = 7, 64
CONTRACT = InputContract(160, 160, 1)
SIDE = 320  # pixels of the camera's pictures


def picture(number: int) -> NDArray[np.uint8]:
    """One of the pool: patches and noise."""
    rng = np.random.default_rng([SEED, number])
    patches = rng.normal(rng.uniform(60, 200), 30, (SIDE // 20, SIDE // 20)).repeat(20, 0).repeat(20, 1)
    grey = (patches + rng.normal(0, 6, (SIDE, SIDE))).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, 2)


@dataclass
class Scene:
    """What stands before the camera, and how the camera fails.

    Attributes:
        fault: of the frames that come now; None while it is well.
        plugged: the camera that is open.
    """

    pool: list[NDArray[np.uint8]]
    fault: str | None = None
    plugged: Camera | None = None

    def show(self, part: int) -> None:
        """A part stands before the camera."""
        if self.plugged is not None:
            self.plugged.parts.put((part, *stamp()))

    def open(self) -> Camera:
        """Plug the camera in again; CameraError while it is unplugged."""
        if self.fault == "unplugged":
            raise CameraError("the camera is gone")
        self.plugged = Camera(self)
        return self.plugged


class Camera(Closing):
    """Gives the frame of each part that is shown to it, however it is told to fail.

    It stamps a frame when the part stands there, as a camera with a clock of its own does.
    """

    dropped = 0

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.parts: queue.SimpleQueue[tuple[int, str, int] | None] = queue.SimpleQueue()
        self._last = scene.pool[0]
        self._number = 0

    def read(self) -> Frame | None:
        while True:
            shown = self.parts.get()
            fault = self._scene.fault
            if shown is None or fault == "unplugged":
                raise CameraError("the camera is gone")
            part, taken_utc, taken_ns = shown
            if fault == "hangs":
                continue
            image = self._scene.pool[part % POOL].copy()
            image[0, 0] = (part & 255, part >> 8 & 255, part >> 16 & 255)
            if fault == "black":
                image[:] = 0
            elif fault == "frozen":
                image = self._last
            elif fault == "cut":
                image[SIDE // 2 :] = 128
            elif fault == "another size":
                image = image[: SIDE // 2]
            self._last = image
            self._number += 1
            return Frame(image, self._number, taken_utc, taken_ns)

    def close(self) -> None:
        """Let a waiting read go."""
        self.parts.put(None)


def part_of(frame: Frame | None) -> int | None:
    """The part that a frame shows, from its first pixel."""
    if frame is None or frame.frame_bgr is None:
        return None
    low, middle, high = (int(value) for value in frame.frame_bgr[0, 0])
    return low | middle << 8 | high << 16


class Broker:
    """mosquitto on a free port, and everything that arrives there."""

    def __init__(self, folder: Path, program: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._command = [program, "-c", str(folder / "mosquitto.conf")]
        says = [f"listener {self.port} 127.0.0.1", "allow_anonymous true", "persistence false", "user root"]
        (folder / "mosquitto.conf").write_text("\n".join([*says, "max_queued_messages 0"]) + "\n")
        self.start()

    def start(self) -> None:
        """Start it, as after a kill."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()


class Plc(threading.Thread):
    """Writes the watchdog every 100 ms unless it is silent."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(name="plc", daemon=True)
        self.silent, self.stopped, self._address = threading.Event(), threading.Event(), address

    def run(self) -> None:
        from pymodbus.client import ModbusTcpClient

        client, count = ModbusTcpClient(self._address[0], port=self._address[1]), 0
        while not self.stopped.wait(0.1):
            if not self.silent.is_set():
                count = (count + 1) % 65_536
                with suppress(Exception):
                    client.connect()
                    client.write_register(0, count)
        client.close()
