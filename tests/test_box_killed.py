"""A whole box, as `diagline serve` runs it, killed at any moment: what it had committed is there, and it goes on."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny_line import Line

from edge_runtime.archive.database import Kind
from edge_runtime.archive.reader import Reader

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
WAIT_S = 60.0
KILLED_AFTER = (1, 9, 40)
"""Verdicts that the plant had heard of when the box died."""


class Plant:
    """Hears all that the box publishes, through a real broker that persists nothing."""

    def __init__(self, port: int) -> None:
        import paho.mqtt.client as mqtt

        self.heard: list[dict[str, Any]] = []
        self.status: list[str] = []
        self._changed = threading.Condition()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        subscribed = threading.Event()
        self._client.on_message = self._on_message
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self._client.subscribe("box/#", qos=1)
        assert subscribed.wait(WAIT_S)

    def _on_message(self, client: object, data: object, message: Any) -> None:
        with self._changed:
            if message.topic == "box/verdicts":
                self.heard.append(json.loads(message.payload))
            elif message.topic == "box/status":
                self.status.append(message.payload.decode())
            self._changed.notify_all()

    def wait(self, what: str, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(getattr(self, what)) >= count, WAIT_S), (what, count)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[int]:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    with subprocess.Popen([MOSQUITTO, "-c", config], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("running" in text for text in process.stderr)
        yield port
        process.terminate()


@pytest.fixture
def box(line: Line, tmp_path: Path, broker: int) -> Path:
    """The config of a box that judges a film of noise, 25 parts a second."""
    writer = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (60, 80))
    rng = np.random.default_rng(1)
    for _ in range(50):
        writer.write(rng.integers(0, 255, (80, 60, 3), np.uint8))
    writer.release()
    config = tmp_path / "box.toml"
    config.write_text(
        f'name = "tiny"\nbundle = "{line.bundle}"\nfolder = "{tmp_path}/box"\nallow_unsigned = true\n'
        f'[camera]\nsource = "{tmp_path}/film.avi"\n[camera.checks]\noff = ["frozen", "duplicated"]\n'
        f'[archive]\npass_share = 1.0\n[page]\nport = 0\n[lines]\nfolder = "lines"\n'
        f'[mqtt]\nhost = "127.0.0.1"\nport = {broker}\nprefix = "box"\n'
    )
    return config


def serve(config: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "diagline.cli", "serve", str(config)], stderr=subprocess.DEVNULL)


def archived(folder: Path) -> list[dict[str, Any]]:
    reader = Reader(folder)
    try:
        return [row.content for row in reversed(reader.verdicts(1_000_000))]
    finally:
        reader.close()


def test_a_box_that_is_killed_keeps_what_it_had_committed_and_judges_again(
    box: Path, broker: int, tmp_path: Path
) -> None:
    plant, archive = Plant(broker), tmp_path / "box/archive"
    committed: list[dict[str, Any]] = []
    for number, count in enumerate(KILLED_AFTER, 1):
        process = serve(box)
        plant.wait("heard", len(plant.heard) + count)
        before = archived(archive)
        process.send_signal(signal.SIGKILL)
        process.wait(WAIT_S)
        plant.wait("status", 2 * number)
        assert plant.status[-2:] == ["online", "offline"]  # the broker tells the plant that the box vanished
        after = archived(archive)
        assert after[: len(before)] == before and before[: len(committed)] == committed
        committed = after
    last = serve(box)
    plant.wait("heard", len(plant.heard) + 5)
    last.terminate()
    assert last.wait(WAIT_S) == 0
    reader = Reader(archive)
    assert reader.verify().fault is None
    assert len(reader.events(Kind.START)) == 4 and len(reader.events(Kind.STOP)) == 1
    assert all(event.content["payload"]["passed"] for event in reader.events(Kind.SELF_TEST))
    reader.close()
    rows = archived(archive)
    assert rows[: len(committed)] == committed
    runs = list(dict.fromkeys(row["run_id"] for row in rows))
    assert len(runs) >= 3  # the first may have died before its first batch of rows
    for run in runs:  # one verdict a part, none left out between two
        numbers = [int(row["part_id"]) for row in rows if row["run_id"] == run]
        assert numbers == sorted(set(numbers))
    at = {(row["taken_utc"], row["part_id"]): row["state"] for row in rows}
    said = {(verdict["taken_utc"], verdict["part_id"]): verdict["state"] for verdict in plant.heard}
    assert all(said[part] == at[part] for part in said.keys() & at.keys())
    of_last = {(row["taken_utc"], row["part_id"]) for row in rows if row["run_id"] == runs[-1]}
    assert len(of_last) >= 5 and of_last & said.keys()
    lines = [text.split(",") for path in sorted((tmp_path / "box/lines").iterdir()) for text in path.open()]
    assert all(text[1] in ("PASS", "REJECT", "NO_DECISION", "state") and text[-1].endswith("\n") for text in lines)
    plant.close()
