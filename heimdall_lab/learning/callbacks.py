"""Lightning callbacks of a training run: the checkpoint after every epoch, and requests to stop."""

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from heimdall_lab.core.files import lock_holder, write_files
from heimdall_lab.core.text import quoted
from heimdall_lab.learning.architectures.layers import Localizer
from heimdall_lab.learning.lightning_module import Metrics
from heimdall_lab.learning.trained import read_tensors

CHECKPOINT = "last.ckpt"
_CHECKPOINT_COPIES = 4  # of the weights: these, the best ones, and two moments of the optimizer
_LOCK_INTERVAL_S = 1.0


class StopRequested(Exception):
    """Training was asked to stop."""


class EpochCheckpoint(Checkpoint):
    """Writes a checkpoint after every epoch, with the best weights and the history among its contents.

    A stop is requested by the event ``stop``, or by `files.request_stop`.
    """

    def __init__(
        self, folder: Path, model: Localizer, report_epoch: Callable[[Metrics], None], stop: threading.Event
    ) -> None:
        self.folder, self.model, self.report_epoch = folder, model, report_epoch
        self.best: dict[str, Tensor] = {}
        self.history: list[Metrics] = []
        self._raise_if_stopped = stop_check(folder, stop)

    @property
    def state_key(self) -> str:
        """Key of this callback's state in checkpoint files: that of version 0.1.0, whose runs can be resumed."""
        return "Keeper"

    def state_dict(self) -> dict[str, Any]:
        """Return what goes into the checkpoint."""
        return {"best": self.best, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.best, self.history = state_dict["best"], state_dict["history"]

    def on_train_batch_end(self, *_: Any) -> None:
        """Stop if that was requested."""
        self._raise_if_stopped()

    def on_validation_batch_end(self, *_: Any) -> None:
        """Stop if that was requested."""
        self._raise_if_stopped()

    def on_train_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Add the metrics of the epoch to the history, and write the checkpoint atomically."""
        metrics = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        lowest_loss = min((epoch["validation_loss"] for epoch in self.history), default=math.inf)
        self.history.append({"epoch": len(self.history) + 1, **metrics})
        if metrics["validation_loss"] < lowest_loss:
            self.best = {name: each.detach().cpu().clone() for name, each in self.model.state_dict().items()}
        path = self.folder / CHECKPOINT
        if trainer.is_global_zero:
            num_bytes = _CHECKPOINT_COPIES * sum(weight.nbytes for weight in self.model.parameters())
            write_files({path: trainer.save_checkpoint}, needed_bytes=num_bytes)
            self.report_epoch(self.history[-1])
        else:
            trainer.save_checkpoint(path)  # writes nothing, but synchronises all processes


def stop_check(folder: Path, stop: threading.Event) -> Callable[[], None]:
    """Make a function that raises `StopRequested` once the event is set or `files.request_stop` was called."""
    checked_s = time.monotonic()

    def raise_if_stopped() -> None:
        nonlocal checked_s
        if time.monotonic() - checked_s > _LOCK_INTERVAL_S:
            checked_s = time.monotonic()
            if lock_holder(folder).endswith(" stop"):
                stop.set()
        if stop.is_set():
            raise StopRequested

    return raise_if_stopped


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the checkpoint of a run; nothing in it is executed.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    try:
        return dict(read_tensors(path))
    except Exception as error:
        raise ValueError(
            f"checkpoint: {quoted(path)} is damaged ({type(error).__name__}); put a copy of it back, or train "
            "into another folder"
        ) from error
