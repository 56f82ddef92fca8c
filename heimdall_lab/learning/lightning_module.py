"""The LightningModule of training: loss, optimiser and validation metrics."""

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from heimdall_lab.core.progress import quiet_loggers
from heimdall_lab.learning.architectures.layers import Localizer, mahalanobis_squared, negative_log_likelihood
from heimdall_lab.learning.augmentation import seed_of
from heimdall_lab.learning.options import Options
from heimdall_lab.localization import error_law

_COVERAGES = (68, 95)  # percent
_INITIAL_FREEDOM, _MIN_FREEDOM = 8.0, 1.0

Metrics = dict[str, float]


class DivergedError(ValueError):
    """The loss is NaN or infinite."""


class Learner(pl.LightningModule):
    """A localizer with its loss, the negative log likelihood of the true position, and its optimiser.

    The degrees of freedom of the law of errors are learned together with the weights. Networks that refine a fix are
    trained on the fixes of all rounds, with weights that grow with the round. The identity of the run goes into its
    checkpoints. ``batches_per_epoch`` counts the batches that this process trains on; Lightning's own estimate reads
    the first ones of epoch 0 ahead.
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
        self.log_freedom = nn.Parameter(torch.tensor(math.log(_INITIAL_FREEDOM - _MIN_FREEDOM)))
        self._validation_errors: list[tuple[Tensor, Tensor]] = []

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
        """Collect the errors of a batch."""
        fix = self.model(self._arrays(batch))
        loss, position, cholesky = self._loss(fix, batch), *(part.float() for part in fix)
        error_km = torch.linalg.vector_norm(position - batch["target"], dim=-1)
        squared = mahalanobis_squared(position, cholesky, batch["target"])
        self._validation_errors.append((loss, torch.stack([error_km, squared])))

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of the epoch."""
        loss = torch.cat([each for each, _ in self._validation_errors]).mean()
        error_km, squared = torch.cat([each for _, each in self._validation_errors], dim=1).double().cpu().numpy()
        self._validation_errors.clear()
        if not torch.isfinite(loss):
            raise DivergedError(
                f"validation_loss: is {loss.item()} after epoch {self.current_epoch + 1}; lower learning_rate "
                f"({self.options.learning_rate:g}) and train into another folder"
            )
        freedom = float(self.log_freedom.detach().exp()) + _MIN_FREEDOM
        squared = squared * error_law.scale(freedom)  # the network learns the law's own scale
        metrics = {"loss": float(loss), **error_metrics(error_km, squared, freedom), "freedom": freedom}
        self.log_dict({f"validation_{name}": value for name, value in metrics.items()}, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with linear warm-up of the learning rate, then cosine decay."""
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.options.learning_rate, weight_decay=self.options.weight_decay
        )
        steps = self.options.epochs * self.batches_per_epoch()
        warm_up_steps = max(1, round(self.options.warm_up * steps))

        def rate(step: int) -> float:
            return min((step + 1) / warm_up_steps, (1 + math.cos(math.pi * min(1.0, step / steps))) / 2)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the identity of the run to the checkpoint."""
        checkpoint["run"] = self.identity

    def _arrays(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: batch[name] for name in self.model.inputs}

    def _loss(self, fix: tuple[Tensor, Tensor], batch: dict[str, Tensor]) -> Tensor:
        """Negative log likelihood (B,) float32."""
        position, cholesky = (part.float() for part in fix)
        freedom = self.log_freedom.exp() + _MIN_FREEDOM
        return negative_log_likelihood(position, cholesky, batch["target"], freedom)


def error_metrics(error_km: Any, squared: Any, freedom: float = math.inf) -> Metrics:
    """Statistics of errors (S,) km and of their squared Mahalanobis distances (S,)."""
    level = error_law.level(squared, freedom)
    return {
        "median_error_km": float(np.median(error_km)),
        "rmse_km": float((error_km**2).mean() ** 0.5),
        **{f"coverage_{percent}": float((level <= percent / 100).mean()) for percent in _COVERAGES},
    }


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence what Lightning logs and warns of, where this package reports the same itself."""
    with quiet_loggers("lightning.pytorch", "lightning.fabric", level=logging.ERROR), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"The '\w+_dataloader' does not have many workers")
        warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")  # in Lightning
        yield
