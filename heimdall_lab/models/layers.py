"""What all localizers are made of: standardised features, attention over receivers, a position with its covariance."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

_LARGEST_FEATURE = 10.0  # standard deviations
_LEAST_SCALE_KM = 1.0
_LEAST_POWER_MW = 1e-18


class Localizer(nn.Module):
    """A network from arrays of `inputs.KINDS` to a position and its covariance.

    Attributes
    ----------
    inputs : tuple of str
        Names of the arrays that `forward` takes.
    spread : () tensor
        Factor on every standard deviation, set after training so that ellipses hold the truth as often as they should.
    """

    inputs: ClassVar[tuple[str, ...]]
    spread: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("spread", torch.ones(()))

    def fit(self, batch: dict[str, Tensor]) -> None:
        """Take what the network standardises its inputs by from training scenes."""
        values = {**batch, **self.derived(batch)}
        for module in self.modules():
            if isinstance(module, Standardise):
                module.fit(values[module.name], batch["present"])

    def derived(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:  # noqa: ARG002
        """Arrays (B, R, …) made of the inputs that the network standardises as well; none by default."""
        return {}

    def locate(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Position (B, 2) km and Cholesky factor (B, 3) km, before the spread."""
        raise NotImplementedError

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
        position, cholesky = self.locate(batch)
        return position, cholesky * self.spread


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
        """Set both from values (B, R, …, F)."""
        known = values[present].flatten(0, -2).double()  # (…, F)
        deviation = known.std(dim=0, correction=0)
        self.mean.copy_(known.mean(dim=0))
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))

    def forward(self, values: Tensor) -> Tensor:
        """Standardise (B, R, …, F), and keep outliers within bounds."""
        return ((values - self.mean) / self.deviation).clamp(-_LARGEST_FEATURE, _LARGEST_FEATURE)


class ReceiverAttention(nn.Module):
    """Pre-norm transformer over the receivers of a scene; absent ones are neither asked nor heard."""

    def __init__(self, width: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads: {heads} do not divide the width of {width}; set a number that does")
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Relate tokens (B, R, D) of receivers that are present (B, R) bool."""
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
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        batch, receivers, width = tokens.shape
        split = self.query_key_value(self.before_attention(tokens))
        query, key, value = (
            part.view(batch, receivers, self.heads, -1).transpose(1, 2) for part in split.chunk(3, dim=-1)
        )  # (B, H, R, D/H)
        score = query @ key.transpose(-1, -2) / math.sqrt(width / self.heads)
        score = score.masked_fill(~present[:, None, None, :], -1e9)
        heard = (score.softmax(dim=-1) @ value).transpose(1, 2).reshape(batch, receivers, width)
        tokens = tokens + self.dropout(self.project(heard))
        return tokens + self.dropout(self.feed(self.before_feed(tokens)))


class Head(nn.Module):
    """Position and covariance from tokens of receivers.

    Each receiver is given a share of the position and an offset from itself, in units of the network's size; the
    covariance is of the mean token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.share = nn.Linear(width, 1)
        self.offset = nn.Linear(width, 2)
        self.factor = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 3))

    def forward(self, tokens: Tensor, position: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Reduce tokens (B, R, D) of receivers at positions (B, R, 2) km."""
        share = self.share(tokens).masked_fill(~present[..., None], -1e9).softmax(dim=1)  # (B, R, 1)
        size = size_km(position, present)[:, None]  # (B, 1)
        offset = (share * self.offset(tokens)).sum(dim=1)  # (B, 2)
        count = present.sum(dim=1, keepdim=True).clamp(min=1)
        mean = (tokens * present[..., None]).sum(dim=1) / count  # (B, D)
        return (share * position).sum(dim=1) + size * offset, size * cholesky_factor(self.factor(mean))


def cholesky_factor(raw: Tensor) -> Tensor:
    """Make the diagonal of raw numbers (B, 3) positive."""
    first, between, last = raw.unbind(dim=-1)
    return torch.stack([_positive(first), between, _positive(last)], dim=-1)


def size_km(position: Tensor, present: Tensor) -> Tensor:
    """Root mean square distance of the present receivers (B, R, 2) from their centroid, (B,)."""
    count = present.sum(dim=1).clamp(min=1)
    square = (position**2 * present[..., None]).sum(dim=(1, 2)) / count
    return square.sqrt().clamp(min=_LEAST_SCALE_KM)


def levels_db(power: Tensor, present: Tensor) -> Tensor:
    """Levels of powers (B, R) mW, and the same over the mean of the scene's present receivers, (B, R, 2) dB."""
    level = 10 * power.clamp(min=_LEAST_POWER_MW).log10()
    count = present.sum(dim=1, keepdim=True).clamp(min=1)
    mean = (level * present).sum(dim=1, keepdim=True) / count
    return torch.stack([level, level - mean], dim=-1)


def negative_log_likelihood(position: Tensor, cholesky: Tensor, target: Tensor) -> Tensor:
    """Negative logarithm of the normal density of each target (B, 2) km, (B,)."""
    first, _, last = cholesky.unbind(dim=-1)
    return first.log() + last.log() + mahalanobis_squared(position, cholesky, target) / 2 + math.log(2 * math.pi)


def mahalanobis_squared(position: Tensor, cholesky: Tensor, target: Tensor) -> Tensor:
    """Square of the error (B, 2) in units of its covariance, (B,)."""
    first, between, last = cholesky.unbind(dim=-1)
    east, north = (target - position).unbind(dim=-1)
    whitened = east / first
    return whitened**2 + ((north - between * whitened) / last) ** 2


def _positive(raw: Tensor) -> Tensor:
    """Softplus, not below what numbers of this precision can divide by."""
    return nn.functional.softplus(raw) + 1e-6
