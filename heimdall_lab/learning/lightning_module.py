"""The Lightning side of training: the loss and its optimiser, and what is kept and told after every epoch."""

import logging
import math
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from heimdall_lab.core.files import lock_holder, write_atomically
from heimdall_lab.learning.architectures.layers import Localizer, mahalanobis_squared, negative_log_likelihood
from heimdall_lab.learning.augmentation import seed_of
from heimdall_lab.learning.options import Options
from heimdall_lab.learning.trained import read_tensors
from heimdall_lab.localization import error_law

CHECKPOINT = "last.ckpt"
_LOCK_INTERVAL_S = 1.0
_LEVELS = (68, 95)  # percent
_FIRST_FREEDOM, _LEAST_FREEDOM = 8.0, 1.0

Epoch = dict[str, float]


class Stopped(Exception):
    """A stop was asked for."""


class DivergedError(ValueError):
    """The loss is no longer a number."""


class Learner(pl.LightningModule):
    """A localizer with its loss, the negative log likelihood of the true position, and its optimiser.

    How far the errors reach beyond a normal law's is learned together with the weights. Networks that refine a fix are
    trained on what every round finds, on the later ones more.

    Parameters
    ----------
    model : Localizer
    options : Options
    identity : dict
        Of the run; goes into its checkpoints.
    batches_per_epoch : callable
        Tells how many batches this process trains on; Lightning's own estimate reads the first ones of epoch 0 ahead.
    """

    def __init__(
        self,
        model: Localizer,
        options: Options,
        identity: dict[str, Any],
        batches_per_epoch: Callable[[], int],
    ) -> None:
        super().__init__()
        self.model, self.options, self.identity = model, options, identity
        self.batches_per_epoch = batches_per_epoch
        self.log_freedom = nn.Parameter(torch.tensor(math.log(_FIRST_FREEDOM - _LEAST_FREEDOM)))
        self._seen: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: dict[str, Tensor], number: int) -> Tensor:
        """Loss of a batch; the dropout within is drawn from the seed, the epoch and the number."""
        torch.manual_seed(seed_of(self.options.seed, self.current_epoch, number, self.global_rank))
        loss = self.loss(batch)
        if not torch.isfinite(loss):
            raise DivergedError(
                f"loss: is {loss.item()} in batch {number} of epoch {self.current_epoch + 1}; lower learning_rate "
                f"({self.options.learning_rate:g}) and train into another folder"
            )
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["target"]), sync_dist=True)
        return loss

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean negative log likelihood () of a batch, of all rounds."""
        losses = [self._loss(fix, batch).mean() for fix in self.model.rounds(self._arrays(batch))]
        weighted = torch.stack([weight * each for weight, each in enumerate(losses, start=1)])
        return weighted.sum() / sum(range(1, len(losses) + 1))

    def validation_step(self, batch: dict[str, Tensor], _number: int) -> None:
        """Keep the errors of a batch."""
        fix = self.model(self._arrays(batch))
        loss, position, cholesky = self._loss(fix, batch), *(found.float() for found in fix)
        error_km = torch.linalg.vector_norm(position - batch["target"], dim=-1)
        self._seen.append((loss, torch.stack([error_km, mahalanobis_squared(position, cholesky, batch["target"])])))

    def on_validation_epoch_end(self) -> None:
        """Log the figures of the epoch."""
        loss = torch.cat([each for each, _ in self._seen]).mean()
        error_km, squared = torch.cat([each for _, each in self._seen], dim=1).double().cpu().numpy()
        self._seen.clear()
        if not torch.isfinite(loss):
            raise DivergedError(
                f"validation_loss: is {loss.item()} after epoch {self.current_epoch + 1}; lower learning_rate "
                f"({self.options.learning_rate:g}) and train into another folder"
            )
        freedom = float(self.log_freedom.detach().exp()) + _LEAST_FREEDOM
        found = error_figures(error_km, squared * error_law.scale(freedom), freedom)  # learned is the law's own scale
        figures = {"loss": float(loss), **found, "freedom": freedom}
        self.log_dict({f"validation_{name}": value for name, value in figures.items()}, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW; the rate rises linearly, then falls along half a cosine."""
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.options.learning_rate, weight_decay=self.options.weight_decay
        )
        steps = self.options.epochs * self.batches_per_epoch()
        rising = max(1, round(self.options.warm_up * steps))

        def rate(step: int) -> float:
            return min((step + 1) / rising, (1 + math.cos(math.pi * min(1.0, step / steps))) / 2)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the checkpoint tell whose it is."""
        checkpoint["run"] = self.identity

    def _arrays(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: batch[name] for name in self.model.inputs}

    def _loss(self, fix: tuple[Tensor, Tensor], batch: dict[str, Tensor]) -> Tensor:
        """Negative log likelihood (B,) float32."""
        position, cholesky = (found.float() for found in fix)
        freedom = self.log_freedom.exp() + _LEAST_FREEDOM
        return negative_log_likelihood(position, cholesky, batch["target"], freedom)


class Keeper(Checkpoint):
    """Keeps the best weights and the history in the checkpoint, which it writes after every epoch.

    Parameters
    ----------
    folder : Path
    model : Localizer
    tell : callable
        Called with each epoch's figures.
    stop : threading.Event
        Whether a stop was asked for; so does what `store.ask_to_stop` writes.
    """

    def __init__(self, folder: Path, model: Localizer, tell: Callable[[Epoch], None], stop: threading.Event) -> None:
        self.folder, self.model, self.tell = folder, model, tell
        self.best: dict[str, Tensor] = {}
        self.history: list[Epoch] = []
        self._heed = heeding(folder, stop)

    def state_dict(self) -> dict[str, Any]:
        """What goes into the checkpoint."""
        return {"best": self.best, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best, self.history = state_dict["best"], state_dict["history"]

    def on_train_batch_end(self, *_: Any) -> None:
        """Stop if that was asked for."""
        self._heed()

    def on_validation_batch_end(self, *_: Any) -> None:
        """Stop if that was asked for."""
        self._heed()

    def on_train_epoch_end(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Take the figures of the epoch, and write the checkpoint whole."""
        figures = {name: float(value) for name, value in sorted(trainer.callback_metrics.items())}
        least = min((epoch["validation_loss"] for epoch in self.history), default=math.inf)
        self.history.append({"epoch": len(self.history) + 1, **figures})
        if figures["validation_loss"] < least:
            self.best = {name: each.detach().cpu().clone() for name, each in self.model.state_dict().items()}
        path = self.folder / CHECKPOINT
        if trainer.is_global_zero:
            write_atomically(path, trainer.save_checkpoint)
            self.tell(self.history[-1])
        else:
            trainer.save_checkpoint(path)  # writes nothing, but all processes meet in it


def heeding(folder: Path, stop: threading.Event) -> Callable[[], None]:
    """Make a function that raises `Stopped` once a stop was asked for, by the event or by `store.ask_to_stop`."""
    looked_s = time.monotonic()

    def heed() -> None:
        nonlocal looked_s
        if time.monotonic() - looked_s > _LOCK_INTERVAL_S:
            looked_s = time.monotonic()
            if lock_holder(folder).endswith(" stop"):
                stop.set()
        if stop.is_set():
            raise Stopped

    return heed


def error_figures(error_km: Any, squared: Any, freedom: float = math.inf) -> Epoch:
    """Statistics of errors (S,) km and of their squares over the covariance (S,)."""
    reached = error_law.level(squared, freedom)
    return {
        "median_error_km": float(np.median(error_km)),
        "rmse_km": float((error_km**2).mean() ** 0.5),
        **{f"coverage_{level}": float((reached <= level / 100).mean()) for level in _LEVELS},
    }


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a run's checkpoint; nothing in it is executed.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    try:
        return dict(read_tensors(path))
    except Exception as error:
        raise ValueError(
            f"checkpoint: {str(path)!r} is damaged ({type(error).__name__}); delete it to train from the start, or "
            "put back a copy"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning from telling what this package tells itself."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"The '\w+_dataloader' does not have many workers")
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")  # in Lightning
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
