"""One training run in one process, or in several under `accelerate launch`.

Each process trains on its part of every batch: the batch stays as large as the config says,
and the processes' gradients weigh as many pictures as they saw. Validation, checkpoints and
logs are the main process's; the others wait. Processes are started and joined by Hugging Face
Accelerate, which see the same folder. Leaves out: the steps (`loop.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
from torch import nn

from diagline.errors import DiaglineError
from training.data import Batch

Value = TypeVar("Value")
PATIENCE = timedelta(hours=2)
"""How long processes wait for the one that validates or writes; the launcher sees to one that died."""
GRACE_S = 30.0
"""How long the main process may take to say why all end."""


class Processes:
    """This process among its equals.

    Attributes:
        index, count: its number, from 0, and how many there are.
        device: where it computes.
    """

    def __init__(self, accelerator: Any = None) -> None:
        self._accelerator = accelerator
        if accelerator is None:
            self.index, self.count = 0, 1
            self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        else:
            self.index, self.count = accelerator.process_index, accelerator.num_processes
            self.device = accelerator.device

    @property
    def is_main(self) -> bool:
        """The one that validates, writes and speaks."""
        return self.index == 0

    def prepare(self, network: nn.Module) -> nn.Module:
        """Move the network to the device; returns what to call in a step: itself, or it under DistributedDataParallel.

        On GPUs batch norm takes its statistics over the whole batch (SyncBatchNorm). PyTorch has none for
        the CPU: there each process normalises its own part, and the main process's statistics are kept.
        """
        network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self._accelerator is None:
            return network
        if self.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return self._accelerator.prepare_model(network)  # type: ignore[no-any-return]

    def part(self, batch: Batch) -> tuple[Batch, slice, float]:
        """This process's part of a batch, its place in it, and the weight that its mean loss has.

        Weights are such that the average over processes of weighted means is the batch's mean. A
        process for which nothing is left takes the first picture at weight 0: all must step alike.
        """
        total = len(batch.indices)
        cuts = np.linspace(0, total, self.count + 1).round().astype(int)
        here = slice(int(cuts[self.index]), int(cuts[self.index + 1]))
        weight = (here.stop - here.start) * self.count / total
        if here.start == here.stop:
            here = slice(0, 1)
        return Batch(batch.indices[here], batch.variants[here]), here, weight

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The average over all processes of a number, on the device; NaN where one has NaN."""
        if self._accelerator is None:
            return value
        return self._accelerator.reduce(value, "mean")  # type: ignore[no-any-return]

    def on_main(self, action: Callable[[], Value]) -> Value:
        """What the main process makes of `action`; the others wait for it, and end where it fails."""
        if self._accelerator is None:
            return action()
        from accelerate.utils import broadcast_object_list

        held: list[Any] = [None, True]
        if self.is_main:
            try:
                held = [action(), True]
            except DiaglineError:
                broadcast_object_list([None, False])
                raise
        broadcast_object_list(held)
        if not held[1]:
            self._end_quietly()
        return held[0]  # type: ignore[no-any-return]

    @contextmanager
    def together(self) -> Iterator[None]:
        """What fails in any process fails in all: `end` with the first error.

        For blocks in which processes do not wait for one another.
        """
        error: DiaglineError | None = None
        try:
            yield
        except DiaglineError as caught:
            error = caught
        if (first := self.first(error)) is not None:
            self.end(first)

    def first(self, error: DiaglineError | None) -> DiaglineError | None:
        """The error of the first process that has one; None where none has. Every process must ask."""
        if self._accelerator is None:
            return error
        from accelerate.utils import gather_object

        return next((one for one in gather_object([error]) if one is not None), None)

    def end(self, error: DiaglineError) -> NoReturn:
        """End all processes: the main one, which has the console, raises the error. Every process must call it."""
        if self.is_main:
            raise error
        self._end_quietly()

    def _end_quietly(self) -> NoReturn:
        # a launcher kills the others as soon as one has ended: the main process must come to say why
        time.sleep(GRACE_S)
        raise SystemExit(2)

    def make_equal(self, network: nn.Module) -> None:
        """Give every process the main process's weights and statistics."""
        if self._accelerator is not None:
            from accelerate.utils import broadcast

            broadcast(list(network.state_dict().values()))


def here() -> Processes:
    """Alone, or what `accelerate launch` made this process."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        return Processes()
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    patience = InitProcessGroupKwargs(timeout=PATIENCE)
    # precision is the config's to say, not the launcher's
    return Processes(Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no", kwargs_handlers=[patience]))


@contextmanager
def own_norms(network: nn.Module) -> Iterator[None]:
    """Within, batch norms may be exchanged for others; after it, the network's own stand in their places again."""
    own = {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    try:
        yield
    finally:
        for name, module in own.items():
            if network.get_submodule(name) is not module:
                network.set_submodule(name, module)


def copy_of(network: nn.Module) -> dict[str, torch.Tensor]:
    """The network's weights and statistics as they are now."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
