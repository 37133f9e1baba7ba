"""Painting in the background, so that a page that is closed or reloaded stops nothing.

One thread paints, batch by batch; every picture is on disk before anyone is told of it. Leaves
out: the page, and what is kept on disk (`session.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from diagline.errors import DiaglineError, GenerationError
from diagline.samples import Sample
from generation.painting import Image, Job, Painted, Painter
from generation.studio.session import Form, Session

MakePainter = Callable[[Form], Painter]
Score = Callable[[Job, Painted, Painter], tuple[dict[str, Any], str | None]]


@dataclass(frozen=True, slots=True)
class Status:
    """What the page shows of the work.

    Attributes:
        running: a picture is being painted or a model loaded.
        done, total: pictures.
        words: what is being done, or how it ended.
        error: one line, where it ended in an error.
        left_s: estimate; None before the first picture.
        version: counts changes.
    """

    running: bool = False
    done: int = 0
    total: int = 0
    words: str = "nothing painted yet"
    error: str = ""
    left_s: float | None = None
    version: int = 0


class Worker:
    """Paints what a form asks for; one order at a time."""

    def __init__(self, session: Session, make_painter: MakePainter, score: Score | None) -> None:
        self._session, self._make_painter, self._score = session, make_painter, score
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._status = Status()

    @property
    def status(self) -> Status:
        """As it is now."""
        with self._lock:
            return self._status

    def start(self, form: Form, normal: Sample, normal_bgr: Image, mask: Image | None) -> None:
        """Begin painting `form.count` pictures.

        Raises:
            GenerationError: an earlier order is still being painted.
        """
        with self._lock:
            if self._status.running:
                raise GenerationError("still painting; wait for it, or press Cancel")
            self._cancelled.clear()
            self._status = Status(True, 0, form.count, "loading the model", version=self._status.version + 1)
        threading.Thread(target=self._run, args=(form, normal, normal_bgr, mask), daemon=True).start()

    def cancel(self) -> None:
        """Stop after the batch that is being painted."""
        self._cancelled.set()

    def _run(self, form: Form, normal: Sample, normal_bgr: Image, mask: Image | None) -> None:
        done, error = 0, ""
        try:
            painter = self._make_painter(form)
            painter.check_words(form.prompt, form.negative_prompt)
            self._tell(words="painting")
            started = time.monotonic()
            while done < form.count and not self._cancelled.is_set():
                streams = self._session.next_streams(min(painter.batch_size, form.count - done))
                jobs = [Job(normal_bgr, mask, stream, form.prompt, form.negative_prompt) for stream in streams]
                for job, painted in zip(jobs, painter.paint(jobs), strict=True):
                    scores, reason = ({}, None) if self._score is None else self._score(job, painted, painter)
                    self._session.add(painter, job, painted, normal, form.kind, scores, reason)
                    done += 1
                    left_s = (time.monotonic() - started) / done * (form.count - done)
                    self._tell(done=done, left_s=left_s)
        except DiaglineError as broken:
            error = " ".join(str(broken).split())
        except Exception as broken:  # a thread has no one above it; the page must not wait for ever
            error = f"{type(broken).__name__}: {broken}; see the terminal"
            raise
        finally:
            ended = "cancelled" if self._cancelled.is_set() and done < form.count else "done"
            words = f"stopped after {done} of {form.count}" if error else f"{ended}: {done} of {form.count} painted"
            self._tell(running=False, words=words, error=error, left_s=None)

    def _tell(self, **changes: Any) -> None:
        with self._lock:
            self._status = replace(self._status, version=self._status.version + 1, **changes)
