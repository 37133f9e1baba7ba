"""Which share of a run this process paints: all of it, or one of several under `accelerate launch`.

Processes talk through the run's folder, which all of them see; they only wait for one
another. Leaves out: starting processes, and choosing the GPU (`diffusion/pipelines.py`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Worker:
    """This process among its equals.

    Attributes:
        index, count: its number, from 0, and how many there are.
        state: accelerate's, when there are several.
    """

    index: int = 0
    count: int = 1
    state: Any = None

    @classmethod
    def here(cls) -> Worker:
        """Alone, or what `accelerate launch` made this process."""
        if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
            return cls()
        import torch
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available())
        return cls(state.process_index, state.num_processes, state)

    @property
    def is_main(self) -> bool:
        """The one that plans, gathers and speaks."""
        return self.index == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every `count`-th item, beginning with this process's index."""
        return items[self.index :: self.count]

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.state is not None:
            self.state.wait_for_everyone()
