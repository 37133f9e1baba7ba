"""How one camera is watched: the `[camera]` table of a box.

Leaves out: what a frame must show (`ChecksConfig`, the table `[camera.checks]`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from diagline.config_checks import one_of, within
from edge_runtime.camera.backlog import KEEP
from edge_runtime.camera.checks import ChecksConfig


@dataclass(frozen=True, slots=True)
class CameraConfig:
    """One camera.

    Attributes:
        source: camera index, RTSP or HTTP address, `aravis:NAME`, or a film to be played over and over.
        timeout_s: no picture for so long, and the source is opened again; opening may take twice as long.
        triggered: the camera itself waits for a trigger: silence is then no fault, and only a source that ends,
            fails or freezes is opened again. Each part is owed a frame: where one did not come, the next part's is
            not judged either, as it may be the missing one.
        keep: "newest": a slow verdict costs the oldest frame; "all": frames keep their order, and what finds
            no room is lost. Both are counted.
        queue_frames: frames kept until they are asked for; as many as come between a trigger and its being served.
        lead_ms: a frame taken this long before the trigger still shows its part; negative where the source's
            pictures are older than they say (a network stream's delay).
        window_ms: a frame taken longer after the trigger shows another part. Less than the time between two parts,
            or a part whose frame was lost is judged by the next one's.
    """

    source: str = "0"
    timeout_s: float = 5.0
    triggered: bool = False
    keep: str = "newest"
    queue_frames: int = 8
    lead_ms: float = 0.0
    window_ms: float = 100.0
    checks: ChecksConfig = field(default_factory=ChecksConfig)

    def __post_init__(self) -> None:
        within("camera.timeout_s", self.timeout_s, 0.05, 3600.0)
        one_of("camera.keep", self.keep, KEEP)
        within("camera.queue_frames", self.queue_frames, 1, 10_000)
        within("camera.lead_ms", self.lead_ms, -60_000.0, 60_000.0)
        within("camera.window_ms", self.window_ms, 0.1, 60_000.0)
