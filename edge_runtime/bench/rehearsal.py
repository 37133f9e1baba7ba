"""The box of a BOX.toml as a bench opens it: everything at work, and nothing beside the line moves.

Gate, PLC and outputs are driven only where that was asked. Otherwise a simulated gate, a handshake that no
PLC can reach and outputs that end behind their spools take their places, so that the box does the same work.
Archive and spools lie in a folder of their own on the box's disk, gone afterwards: no record of a bench is
among the line's. Leaves out: the load and the figures (`line.py`).
"""

from __future__ import annotations

import queue
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diagline import bundle as bundles
from diagline.errors import BundleError, ConfigError, OutputError
from edge_runtime import box_config
from edge_runtime.box_config import BoxConfig
from edge_runtime.camera.checks import CHECKS
from edge_runtime.camera.config import CameraConfig
from edge_runtime.camera.frames import Closing, Frame
from edge_runtime.camera.watched import WatchedCamera
from edge_runtime.gate.driver import SimulatedActuator
from edge_runtime.outputs.base import Record
from edge_runtime.plc.coil import CoilConfig
from edge_runtime.station import Station
from edge_runtime.trigger import Trigger

OUTPUTS = ("mqtt", "webhook", "lines")


class Nowhere:
    """An output that takes every record and drops it: the work before a network, without the network."""

    def __init__(self, name: str) -> None:
        self.name = name

    def send(self, record: Record) -> None:
        """Take it."""

    def close(self) -> None:
        """Nothing is held."""


class _Shown(Closing):
    """Gives a picture for each trigger it is shown, taken at that very moment."""

    dropped = 0

    def __init__(self, pictures: Sequence[NDArray[np.uint8]]) -> None:
        self._pictures = pictures
        self._triggers: queue.SimpleQueue[Trigger | None] = queue.SimpleQueue()
        self._number = 0

    def show(self, trigger: Trigger) -> None:
        """A part stands before the camera."""
        self._triggers.put(trigger)

    def read(self) -> Frame | None:
        """The next part's frame, waiting for it; None after `stop`."""
        trigger = self._triggers.get()
        if trigger is None:
            return None
        image = self._pictures[self._number % len(self._pictures)]
        self._number += 1
        return Frame(image, self._number - 1, trigger.at_utc, trigger.at_ns)

    def stop(self) -> None:
        """Let a waiting read go."""
        self._triggers.put(None)

    def close(self) -> None:
        """Nothing is held."""


class SimulatedCamera(WatchedCamera):
    """Pictures in turn, one at each trigger, through the watch that a real camera's frames go through."""

    def __init__(self, pictures: Sequence[NDArray[np.uint8]], config: CameraConfig) -> None:
        """Wait for triggers.

        Args:
            pictures: `(h, w, 3)` uint8 BGR each; not written to.
        """
        shown = _Shown(pictures)
        self._show = shown.show
        super().__init__(lambda: shown, config)

    def announce(self, trigger: Trigger) -> None:
        """As a real one's, and the part stands there."""
        super().announce(trigger)
        self._show(trigger)


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A box that can be opened for a bench, again and again.

    Attributes:
        config: the box as it stands beside the line.
        path: BOX.toml, beside which the engine of this machine is recorded.
        simulated: the bundle's golden pictures stand in for the camera.
        drive: the real gate moves, and the real PLC and outputs hear of verdicts.
    """

    config: BoxConfig
    path: Path | None = None
    simulated: bool = False
    drive: bool = False

    def __post_init__(self) -> None:
        if self.config.camera.triggered and not self.simulated:
            raise ConfigError(
                "camera.triggered = true: a bench cannot give that camera its trigger; "
                "expected one that runs free; take --simulated"
            )

    @property
    def stands_in(self) -> tuple[str, ...]:
        """What is not as on the line, a line each."""
        config = self.config
        said = ["triggers: pulled by the bench", "archive and spools: in a folder of their own, gone at the end"]
        if self.simulated:
            said.append("camera: the bundle's golden pictures in turn, whole; of the checks only their age")
        if self.drive:
            return (*said, "gate, PLC and outputs: driven, as on the line")
        if config.gate is not None:
            said.append("gate: simulated, nothing moves")
        if config.modbus is not None:
            said.append("PLC: the handshake runs where none reaches it")
        if self._outputs:
            said.append(f"{', '.join(self._outputs)}: records end behind the spool")
        return tuple(said)

    @contextmanager
    def open(self) -> Iterator[Station]:
        """The box at work, without any record of before.

        Raises:
            BundleError: the bundle is not whole or not trusted, fails its self-test, or holds no golden picture.
            OutputError: the box's disk cannot be written to.
            DiaglineError: whatever else cannot be opened.
        """
        folder = self.config.folder.absolute()
        there = next(place for place in (folder, *folder.parents) if place.is_dir())  # the same disk
        try:
            aside = tempfile.TemporaryDirectory(prefix="bench-", dir=there, ignore_cleanup_errors=True)
        except OSError as error:
            raise OutputError(f"{there}: {error.strerror}; expected to write there; run as the box's user") from error
        with aside as own, ExitStack() as undo:
            config, camera = self._changed(Path(own)), None
            if self.simulated:
                camera = undo.enter_context(SimulatedCamera(_golden(config.bundle), config.camera))
            outputs = () if self.drive else tuple(Nowhere(name) for name in self._outputs)
            station = Station(config, self.path, camera, None if self.drive else SimulatedActuator(), outputs)
            undo.callback(station.close)
            fault = station.box.health().fault
            if fault is not None:
                raise BundleError(f"{config.bundle}: {fault}; expected a box that judges; export it again")
            yield station

    @property
    def _outputs(self) -> tuple[str, ...]:
        return tuple(name for name in OUTPUTS if getattr(self.config, name) is not None)

    def _changed(self, own: Path) -> BoxConfig:
        """The config that is opened; archive and spools lie in `own`."""
        config = self.config
        trigger, spool = replace(config.trigger, by=box_config.PAGE), replace(config.spool, folder=own / "spool")
        config = replace(config, folder=own, trigger=trigger, spool=spool)
        if self.simulated:
            checks = replace(config.camera.checks, off=tuple(check for check in CHECKS if check != "stale"))
            camera = replace(config.camera, triggered=True, lead_ms=0.0, checks=checks)
            config = replace(config, camera=camera, region=None)
        if self.drive:
            return config
        coil = CoilConfig("simulated") if config.gate is not None else None  # a gate must name what moves it
        modbus = config.modbus and replace(config.modbus, host="127.0.0.1", port=0)
        return replace(config, gpio=None, coil=coil, modbus=modbus, mqtt=None, webhook=None, lines=None)


def _golden(root: Path) -> list[NDArray[np.uint8]]:
    bundle = bundles.read(root)
    pictures = [bundle.golden_frame(golden) for golden in bundle.golden]
    if not pictures:
        raise BundleError(f"{root}: holds no golden picture; expected some to show; export it again")
    return pictures
