"""A snapshot of the box as Prometheus reads it, made when it is scraped.

Nothing is counted here, so that the loop carries no instruments and the figures are those of the
page. Names, labels and their values are listed in `docs/page.md`; every label is of a bounded set.
Leaves out: serving them (`dashboard/app.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate, zip_longest
from typing import TYPE_CHECKING

from diagline.errors import require
from edge_runtime.camera.stamps import BY
from edge_runtime.dashboard import lights
from edge_runtime.dashboard.view import LIVE, Snapshot
from edge_runtime.recent import BUCKETS_S, CAUSES

if TYPE_CHECKING:
    from prometheus_client.core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(snapshot: Snapshot) -> bytes:
    """All metrics in Prometheus' text format 0.0.4.

    Raises:
        MissingExtraError: prometheus-client is not installed.
    """
    require("prometheus_client", "edge")
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(SnapshotCollector(snapshot))
    return generate_latest(registry)


class SnapshotCollector:
    """A collector of one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """Every metric once."""
        from prometheus_client.core import InfoMetricFamily

        snapshot = self._snapshot
        model = {"line": snapshot.line, "model": snapshot.model, "certificate": snapshot.certificate}
        yield InfoMetricFamily("diagline_model", "What judges, and on what certificate.", value=model)
        yield _gauge("judging", "1 while the box judges, as /healthz says.", not lights.faults(snapshot))
        yield _gauge("uptime_seconds", "Since the box was started.", snapshot.uptime_s)
        yield from self._verdicts()
        yield from self._camera()
        yield from self._outputs()
        yield from self._archive()
        yield self._stages()

    def _verdicts(self) -> Iterator[Metric]:
        tally = self._snapshot.tally
        yield _counter("triggers", "Parts that asked for a verdict.", tally.triggers)
        yield _gauge("open_parts", "Parts that wait for their verdict.", tally.open)
        states = {state.value: count for state, count in tally.states.items()}
        yield _counters("verdicts", "Verdicts by state.", "state", states)
        causes = dict.fromkeys(CAUSES, 0)
        for cause, count in self._snapshot.causes.items():
            causes[cause if cause in causes else "other"] += count
        yield _counters("no_decision", "NO_DECISION by class of cause.", "cause", causes)
        yield _counter("late", "Verdicts that their deadline made.", tally.late)
        yield _counter("late_answers", "Answers that came after their part was decided.", tally.dropped)

    def _camera(self) -> Iterator[Metric]:
        camera = self._snapshot.camera
        yield _gauge("camera_live", "1 while the camera gives pictures.", camera.state == LIVE)
        if camera.frame_age_s is not None:
            yield _gauge("camera_frame_age_seconds", "Since the last picture was taken.", camera.frame_age_s)
        yield _counter("camera_frames", "Frames that came.", camera.frames)
        yield _counter("camera_dropped_frames", "Frames nobody was given.", camera.dropped)
        yield _counter("camera_refused_frames", "Frames that may not be judged (black, frozen, ...).", camera.refused)
        yield _counter("camera_reconnects", "Times the camera came back.", camera.reconnects)
        stamps = {by: camera.stamps.get(by, 0) for by in BY}
        yield _counters("camera_stamps", "Frames by the clock that says when they were taken.", "by", stamps)

    def _outputs(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        gate, outputs = self._snapshot.gate, self._snapshot.outputs
        if gate is not None:
            yield _gauge("gate_trusted", "0 while the gate holds everything back.", gate.cause is None)
        for name, text, values in (
            ("connected", "1 while records arrive.", [output.connected is True for output in outputs]),
            ("waiting_records", "Records that have not arrived yet.", [output.waiting for output in outputs]),
        ):
            family = GaugeMetricFamily(f"diagline_output_{name}", text, labels=["name"])
            for output, value in zip(outputs, values, strict=True):
                family.add_metric([output.name], float(value))
            yield family
        sent = {output.name: output.sent for output in outputs}
        yield _counters("output_sent_records", "Records that arrived.", "name", sent)
        dropped = {output.name: output.dropped for output in outputs}
        yield _counters("output_dropped_records", "Records that never will.", "name", dropped)

    def _archive(self) -> Iterator[Metric]:
        archive = self._snapshot.archive
        if archive is None:
            return
        yield _gauge("archive_writable", "1 while the archive's disk takes what it is given.", archive.error is None)
        days = math.inf if archive.days_left is None else archive.days_left
        yield _gauge("archive_days_left", "Until its disk is full; +Inf while it does not fill.", days)
        yield _gauge("archive_used_bytes", "Kept in the archive.", archive.used_bytes)
        yield _gauge("archive_free_bytes", "Free on its disk.", archive.free_bytes)
        yield _counter("archive_lost", "Verdicts and pictures that are not in it and should be.", archive.lost)

    def _stages(self) -> Metric:
        from prometheus_client.core import HistogramMetricFamily

        family = HistogramMetricFamily("diagline_stage_seconds", "Latency by stage.", labels=["stage"])
        ends = [*(f"{end:g}" for end in BUCKETS_S), "+Inf"]
        for name, stage in self._snapshot.stages.items():
            counts = accumulate(count for count, _ in zip_longest(stage.classes, ends, fillvalue=0))
            buckets = list(zip(ends, map(float, counts), strict=True))
            family.add_metric([name], buckets, stage.total_s)
        return family


def _gauge(name: str, text: str, value: float) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily(f"diagline_{name}", text, float(value))


def _counter(name: str, text: str, value: int) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    return CounterMetricFamily(f"diagline_{name}", text, value)


def _counters(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(f"diagline_{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
