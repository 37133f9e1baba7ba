"""What the page sees of a station, and may ask of it.

Leaves out: the page (`dashboard/`), and who may ask (`dashboard/auth.py`).
"""

from __future__ import annotations

import os
import secrets
import time
from datetime import UTC, datetime

import cv2

from diagline import certificate
from diagline.errors import BundleError, CameraError
from diagline.heat import overlay
from edge_runtime import box_config
from edge_runtime.dashboard.view import ArchiveState, CameraState, GateState, OutputState, Snapshot
from edge_runtime.station import Station
from edge_runtime.trigger import Trigger

JPEG = [cv2.IMWRITE_JPEG_QUALITY, 85]


class StationView:
    """A station as a `View`."""

    def __init__(self, station: Station) -> None:
        self._station = station

    def snapshot(self) -> Snapshot:
        """The station now."""
        station, now_ns = self._station, time.monotonic_ns()
        health, inspector = station.box.health(), station.box.inspector
        return Snapshot(
            line=station.config.name,
            model=health.model,
            certificate=certificate.line(inspector.bundle.manifest, inspector.format_name),
            at_ns=now_ns,
            uptime_s=station.uptime_s,
            tally=health.tally,
            deadline_s=station.config.trigger.deadline_ms / 1000,
            oldest_open_s=health.oldest_open_s,
            fault=health.fault,
            camera=self._camera(),
            recent=station.recent.recent(),
            rejects=station.recent.rejects(),
            causes=station.recent.causes(),
            stages=station.recent.stages(now_ns),
            gate=self._gate(),
            outputs=self._outputs(),
            archive=self._archive(),
        )

    def picture(self) -> bytes | None:
        """The last judged region with its heat map, as JPEG."""
        shown = self._station.box.shown
        if shown is None:
            return None
        image, fmt = shown.image_bgr, shown.inspector.bundle.manifest.formats[shown.inspector.format_name]
        if shown.heat is not None and fmt.heat is not None:
            contract = shown.inspector.bundle.manifest.input
            image = overlay(image, shown.heat, fmt.to_logit(fmt.threshold), fmt.heat.grid, contract)
        return cv2.imencode(".jpg", image, JPEG)[1].tobytes()

    def self_test(self) -> str:
        """Run the golden pictures of the bundle as it lies on the disk now."""
        inspector = self._station.self_test()
        return f"self-test passed: {len(inspector.bundle.golden)} golden pictures"

    def trigger(self) -> str:
        """Judge what is before the camera, where frames are not judged by themselves."""
        if self._station.config.trigger.by == box_config.FREE:
            raise CameraError("every frame is judged already; set trigger.by = 'page' for a button")
        utc = datetime.now(UTC).isoformat(timespec="microseconds")
        part = f"page-{secrets.token_hex(4)}"
        self._station.pull(Trigger(part, time.monotonic_ns(), utc))
        return f"{part} triggered"

    def acknowledge(self) -> str:
        """Let the gate work again after a fault."""
        gate = self._station.gate
        why = gate.gate.acknowledge() if gate is not None else None
        if why is None:
            return "nothing waits to be acknowledged"
        return f"acknowledged: {why}"

    def switch_bundle(self, path: str) -> str:
        """Judge with a bundle that lies beside the present one."""
        config = self._station.config
        root = config.bundle.parent / path
        if root.parent.resolve() != config.bundle.parent.resolve() or not root.is_dir():
            raise BundleError(
                f"{path!r}: no bundle in {config.bundle.parent}; expected the name of one that lies there"
            )
        inspector = self._station.switch(root)
        said = f"{inspector.bundle.model} judges from the next part on"
        if not config.bundle.is_symlink():
            return f"{said}; until the next start, as {config.bundle} is no link"
        aside = config.bundle.with_name(f".{config.bundle.name}.{secrets.token_hex(4)}")
        aside.symlink_to(root.resolve())
        os.replace(aside, config.bundle)
        return said

    def _camera(self) -> CameraState:
        health = self._station.camera.health()
        return CameraState(
            state=health.state,
            frame_age_s=None if health.age_ms is None else health.age_ms / 1000,
            frames=health.frames,
            dropped=sum(health.dropped.values()),
            refused=sum(health.refused.values()),
            reconnects=health.reconnects,
            cause=health.cause,
            stamps=health.stamps,
            stamped=health.stamped,
        )

    def _gate(self) -> GateState | None:
        if self._station.gate is None:
            return None
        gate = self._station.gate.gate
        return GateState("ready" if gate.fault is None else "held", gate.fault, gate.waits)

    def _outputs(self) -> tuple[OutputState, ...]:
        found = []
        for spool in self._station.spools:
            health = spool.health()
            lost = sum(health.dropped.values())
            found.append(
                OutputState(health.name, health.connected, health.waiting, health.sent, lost, health.last_error)
            )
        if self._station.modbus is not None:
            plc = self._station.modbus.health()
            error = plc.stopped or (None if not plc.error else plc.error.name.lower().replace("_", " "))
            found.append(OutputState("plc", not plc.plc_silent, last_error=error))
        return tuple(found)

    def _archive(self) -> ArchiveState:
        health = self._station.archive.health()
        used = sum(health.used_bytes.values())
        return ArchiveState(health.days_left, used, health.free_bytes, sum(health.lost.values()), health.error)
