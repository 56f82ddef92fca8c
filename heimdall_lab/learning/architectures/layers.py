"""Layers and losses of all localizers: standardisation, attention over receivers, position with covariance."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

_MAX_DEVIATIONS = 10.0  # standard deviations
_MIN_SIZE_KM = 1.0
MIN_POWER_MW = 1e-18  # of a window without any sample


class Localizer(nn.Module):
    """A network from arrays of `inputs.ARRAYS` to a position and its covariance.

    Attributes
    ----------
    inputs : tuple of str
        Names of the arrays that `forward` takes.
    spread, freedom : () tensor
        Factor on every standard deviation, and degrees of freedom of the law of errors (`error_law`); set after
        training so that error ellipses have their nominal coverage.
    """

    inputs: ClassVar[tuple[str, ...]]
    spread: Tensor
    freedom: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("freedom", torch.full((), torch.inf))

    def fit(self, batch: dict[str, Tensor]) -> None:
        """Set the statistics of all `Standardise` layers from training scenes."""
        values = {**batch, **self.derived(batch)}
        for module in self.modules():
            if isinstance(module, Standardise):
                module.fit(values[module.name], batch["present"])

    def derived(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG002
        """Arrays (B, R, …) computed from the inputs, which the network standardises as well; none by default."""
        return {}

    def locate(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Position (B, 2) km and Cholesky factor (B, 3) km, before the spread."""
        raise NotImplementedError

    def refine(self, batch: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """All fixes of networks that refine a fix, the last one as `locate` returns it."""
        return [self.locate(batch)]

    def rounds(self, batch: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """All fixes of networks that refine a fix, the last one as `forward` returns it; the loss is of all of them."""
        return [(position, cholesky * self.spread) for position, cholesky in self.refine(_absent_as_zero(batch))]

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Locate a batch of scenes.

        Parameters
        ----------
        batch : dict of str to Tensor
            Each of `inputs`, (B, R, …).

        Returns
        -------
        position : (B, 2) km
            East and north on the tangent plane at the centroid of the present receivers.
        cholesky : (B, 3) km
            l₁₁, l₂₁, l₂₂ of the lower triangular factor of the covariance; the first and the last are positive.
        """
        return self.rounds(batch)[-1]


class Standardise(nn.Module):
    """Shift and scale each feature to mean 0 and variance 1 over the present receivers of the training scenes."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, name: str, features: int) -> None:
        super().__init__()
        self.name = name
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))

    def fit(self, values: Tensor, present: Tensor) -> None:
        """Set mean and deviation from values (B, R, …, F)."""
        known = values[present].flatten(0, -2).double()  # (…, F)
        deviation = known.std(dim=0, correction=0)
        self.mean.copy_(known.mean(dim=0))
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))

    def forward(self, values: Tensor) -> Tensor:
        """Standardise (B, R, …, F), and clamp outliers."""
        return ((values - self.mean) / self.deviation).clamp(-_MAX_DEVIATIONS, _MAX_DEVIATIONS)


class ReceiverAttention(nn.Module):
    """Pre-norm transformer over the receivers of a scene, in which absent ones are masked."""

    def __init__(self, width: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads: {heads} do not divide the width of {width}; set a number that does")
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Transform tokens (B, R, D) of receivers that are present (B, R) bool."""
        for block in self.blocks:
            tokens = block(tokens, present)
        return self.norm(tokens)  # (B, R, D)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.before_feed = nn.LayerNorm(width)
        self.feed = feed_forward(width, 4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        batch, receivers, width = tokens.shape
        split = self.query_key_value(self.before_attention(tokens))
        query, key, value = (
            part.view(batch, receivers, self.heads, -1).transpose(1, 2) for part in split.chunk(3, dim=-1)
        )  # (B, H, R, D/H)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, present[:, None, None, :])
        attended = attended.transpose(1, 2).reshape(batch, receivers, width)
        tokens = tokens + self.dropout(self.project(attended))
        return tokens + self.dropout(self.feed(self.before_feed(tokens)))


class Head(nn.Module):
    """Position and covariance from tokens of receivers.

    The position is a weighted mean over receivers of their positions plus offsets in units of the network's size; the
    covariance is a function of the mean token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.share = nn.Linear(width, 1)
        self.offset = nn.Linear(width, 2)
        self.factor = feed_forward(width, width, 3)

    def forward(self, tokens: Tensor, position: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Reduce tokens (B, R, D) of receivers at positions (B, R, 2) km."""
        share = self.share(tokens).float().masked_fill(~present[..., None], -1e9).softmax(dim=1)  # (B, R, 1)
        size = size_km(position, present)[:, None]  # (B, 1)
        offset = (share * self.offset(tokens)).sum(dim=1)  # (B, 2)
        factor = self.factor(mean_over(tokens, present))
        return (share * position).sum(dim=1) + size * offset, size * cholesky_factor(factor)


def feed_forward(inputs: int, width: int, outputs: int, *, start_at_zero: bool = False) -> nn.Sequential:
    """Make two linear layers with a GELU between them, whose output may be 0 before training."""
    last = nn.Linear(width, outputs)
    if start_at_zero:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), last)


def cholesky_factor(raw: Tensor) -> Tensor:
    """Make a Cholesky factor of raw numbers (B, 3): the diagonal becomes positive."""
    first, between, last = raw.unbind(dim=-1)
    return torch.stack([_positive(first), between, _positive(last)], dim=-1)


def mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of values (B, R, K) over the receivers of a mask (B, R), (B, K); 0 where it has none."""
    return zeroed(values, ~mask).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def zeroed(values: Tensor, mask: Tensor) -> Tensor:
    """Values (B, R, …) with 0, whatever they are, for the receivers of a mask (B, R)."""
    return values.masked_fill(mask.reshape(*mask.shape, *(1,) * (values.ndim - 2)), 0)


def size_km(position: Tensor, present: Tensor) -> Tensor:
    """Root mean square distance of the present receivers (B, R, 2) from their centroid, (B,)."""
    return mean_over(position**2, present).sum(dim=-1).sqrt().clamp(min=_MIN_SIZE_KM)


def levels_db(power: Tensor, present: Tensor) -> Tensor:
    """Levels of powers (B, R) mW, and the same over the mean of the scene's present receivers, (B, R, 2) dB."""
    level = 10 * power.clamp(min=MIN_POWER_MW).log10()
    return torch.stack([level, level - mean_over(level[..., None], present)], dim=-1)


def negative_log_likelihood(position: Tensor, cholesky: Tensor, target: Tensor, freedom: Tensor) -> Tensor:
    """Negative logarithm of the density of each target (B, 2) km, (B,), by Student's law with a scale matrix L Lᵀ.

    Fixes from late delays, or from levels, sometimes err by far more than a normal law allows; with one, these few
    would dominate the training. The normal law is the limit of many degrees of freedom.

    Source: Kotz and Nadarajah, Multivariate t Distributions and Their Applications (2004), eq. (1.1).
    """
    first, _, last = cholesky.unbind(dim=-1)
    squared = mahalanobis_squared(position, cholesky, target)
    return first.log() + last.log() + math.log(2 * math.pi) + (freedom / 2 + 1) * torch.log1p(squared / freedom)


def mahalanobis_squared(position: Tensor, cholesky: Tensor, target: Tensor) -> Tensor:
    """Square of the error (B, 2) in units of its covariance, (B,)."""
    first, between, last = cholesky.unbind(dim=-1)
    east, north = (target - position).unbind(dim=-1)
    whitened = east / first
    return whitened**2 + ((north - between * whitened) / last) ** 2


def _absent_as_zero(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Set the values of absent receivers to 0, whatever they are."""
    present = batch["present"]
    return {name: values if name == "present" else zeroed(values, ~present) for name, values in batch.items()}


def _positive(raw: Tensor) -> Tensor:
    """Softplus plus a margin that keeps division finite in single precision."""
    return nn.functional.softplus(raw) + 1e-6
