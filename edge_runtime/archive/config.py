"""What the archive keeps, for how long, and how much of it may wait in memory.

The values alone: what they mean for pictures stands in `images.py`, for deleting in `retention.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from diagline.config_checks import one_of, within
from diagline.verdict import State

GIB = 2**30


@dataclass(frozen=True, slots=True)
class ArchiveConfig:
    """The audit trail of one box.

    Attributes:
        image_format: "png" (lossless, so a replay is exact) or "jpeg" (small; a replay is not exact).
        png_level: zlib's, 0 to 9; 1 is the smallest effort that compresses (docs/archive.md).
        jpeg_quality: 1 to 100.
        pass_share: share of the passes whose frame is kept, drawn by a hash of the part id; every REJECT's and
            NO_DECISION's is.
        pass_quota_bytes, reject_quota_bytes, no_decision_quota_bytes: pictures of a verdict take no more than this.
        pass_days, reject_days, no_decision_days: and are deleted when they are older.
        min_free_bytes: with less free on the disk pictures are deleted at once, passes first, and none is added.
        sweep_s: how often quotas and days are looked at; free space is looked at with every commit.
        commit_s: the longest a verdict waits for others to share its commit with.
        retry_s: pause after a commit that failed.
        queue_rows, queue_row_bytes: verdicts that wait in memory while the disk is slow or dead, and the text they may
            hold; events may take half of each.
        queue_frame_bytes: frames that wait there.
    """

    image_format: str = "png"
    png_level: int = 1
    jpeg_quality: int = 95
    pass_share: float = 0.01
    pass_quota_bytes: int = 2 * GIB
    reject_quota_bytes: int = 20 * GIB
    no_decision_quota_bytes: int = 5 * GIB
    pass_days: float = 30.0
    reject_days: float = 365.0
    no_decision_days: float = 90.0
    min_free_bytes: int = GIB
    sweep_s: float = 10.0
    commit_s: float = 0.2
    retry_s: float = 1.0
    queue_rows: int = 10_000
    queue_row_bytes: int = 2**24
    queue_frame_bytes: int = 2**26

    def __post_init__(self) -> None:
        one_of("archive.image_format", self.image_format, ("png", "jpeg"))
        within("archive.png_level", self.png_level, 0, 9)
        within("archive.jpeg_quality", self.jpeg_quality, 1, 100)
        within("archive.pass_share", self.pass_share, 0.0, 1.0)
        for kind in ("pass", "reject", "no_decision"):
            within(f"archive.{kind}_quota_bytes", getattr(self, f"{kind}_quota_bytes"), 0, 2**60)
            within(f"archive.{kind}_days", getattr(self, f"{kind}_days"), 0.0, 36_500.0)
        within("archive.min_free_bytes", self.min_free_bytes, 0, 2**60)
        within("archive.sweep_s", self.sweep_s, 0.01, 3600.0)
        within("archive.commit_s", self.commit_s, 0.0, 60.0)
        within("archive.retry_s", self.retry_s, 0.001, 600.0)
        within("archive.queue_rows", self.queue_rows, 1, 10_000_000)
        within("archive.queue_row_bytes", self.queue_row_bytes, 2**12, 2**40)
        within("archive.queue_frame_bytes", self.queue_frame_bytes, 0, 2**40)

    def quota(self, state: State) -> tuple[int, float]:
        """Bytes and days that the pictures of a verdict may take."""
        name = state.value.lower()
        return getattr(self, f"{name}_quota_bytes"), getattr(self, f"{name}_days")
