"""A run's curves for TensorBoard: `tensorboard/` beside its checkpoint.

Every point stands at the number of steps done, from 1, so that points of steps and of epochs share one
axis. A run that goes on after a kill marks where: TensorBoard then drops what the lost part
of an epoch left behind. Leaves out: looking at them (`tensorboard --logdir FOLDER`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from diagline.errors import OutputError, require

FOLDER = "tensorboard"


class Curves:
    """The writer of one run; with `writes` false (not the main process) it does nothing.

    Args:
        target: the run's folder.
        steps_done: where the run goes on.

    Raises:
        MissingExtraError: TensorBoard is not installed.
        OutputError: the folder cannot be written to.
    """

    def __init__(self, target: Path, steps_done: int, writes: bool = True) -> None:
        self._writer: Any = None
        if not writes:
            return
        require("tensorboard", "workstation")
        # TensorBoard takes TensorFlow's file system where it finds it, which costs seconds and memory; its own serves.
        sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
        from torch.utils.tensorboard import SummaryWriter

        try:
            self._writer = SummaryWriter(str(target / FOLDER), purge_step=steps_done + 1)
        except OSError as error:
            raise OutputError(
                f"cannot write {target / FOLDER}: {error.strerror}; expected a writable folder"
            ) from error

    def step(self, steps_done: int, loss: float) -> None:
        """One step's loss."""
        if self._writer is not None:
            self._writer.add_scalar("step/loss", loss, steps_done)

    def epoch(self, steps_done: int, row: dict[str, Any]) -> None:
        """A row of the history; on disk when this returns."""
        if self._writer is None:
            return
        for name, value in row.items():
            if name != "epoch" and value is not None:
                self._writer.add_scalar(f"epoch/{name}", value, steps_done)
        self._writer.flush()

    def __enter__(self) -> Curves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()
