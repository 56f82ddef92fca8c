"""Convolutional networks on IQ, shared over receivers, then attention over the receivers."""

import math

import torch
from torch import Tensor, nn

from heimdall_lab.core.config import MAX_RECEIVERS
from heimdall_lab.learning.architectures.layers import (
    MIN_POWER_MW,
    Head,
    Localizer,
    ReceiverAttention,
    Standardise,
    levels_db,
    size_km,
)

_STAGES = (8, 4, 2, 1)  # width divided by the channels of each stage


class _IqNetwork(Localizer):
    """Each receiver is one token: its encoded window of IQ, its level, and its position.

    The encoder is given windows of unit power. Levels are inputs of their own, for they depend on distance.
    """

    inputs = ("iq", "position", "present")

    def __init__(self, max_receivers: int, window: int, width: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        if not 1 <= max_receivers <= MAX_RECEIVERS:
            raise ValueError(f"max_receivers: {max_receivers} is not in 1 … {MAX_RECEIVERS}; set a number within")
        self.max_receivers, self.window = max_receivers, window
        self.encoder = self._encoder(_channels(width))
        self.standardise = Standardise("levels", 2)
        self.dropout = nn.Dropout(dropout)
        self.embed = nn.Linear(width + 4, width)
        self.attention = ReceiverAttention(width, heads, layers, dropout)
        self.head = Head(width)

    def _encoder(self, channels: list[int]) -> nn.Module:
        """From (B·R, 2, N) to (B·R, D), by stages with these numbers of channels."""
        raise NotImplementedError

    def derived(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Localizer.derived`: levels over 1 mW, and over the scene's mean."""
        return {"levels": levels_db(_power(batch["iq"]), batch["present"])}

    def locate(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See `Localizer.locate`.

        Raises
        ------
        ValueError
            If a scene has more than ``max_receivers``, or the windows of IQ another length than ``window``.
        """
        iq, position, present = (batch[name] for name in self.inputs)
        self._check(iq, present)
        scale = _power(iq).clamp(min=MIN_POWER_MW).sqrt()[..., None, None]
        encoded = self.encoder((iq / scale).flatten(0, 1)).reshape(*present.shape, -1)  # (B, R, D)
        level = self.standardise(self.derived(batch)["levels"])
        relative_position = position / size_km(position, present)[:, None, None]
        tokens = self.embed(torch.cat([self.dropout(encoded), level, relative_position], dim=-1))  # (B, R, D)
        return self.head(self.attention(tokens, present), position, present)

    def _check(self, iq: Tensor, present: Tensor) -> None:
        if iq.shape[-1] != self.window:
            raise ValueError(
                f"iq: has {iq.shape[-1]} instants, and the network takes {self.window}; cut windows of that length, "
                "or build it with another window"
            )
        if torch.onnx.is_in_onnx_export():  # the number of receivers is symbolic while a graph is traced
            return
        if (most := int(present.sum(dim=1).max())) > self.max_receivers:
            raise ValueError(
                f"max_receivers: a scene has {most} receivers, and the network takes {self.max_receivers}; "
                f"build it with max_receivers={most}"
            )


class IqResNet18(_IqNetwork):
    """One-dimensional ResNet-18: eight residual blocks.

    Source: He et al., CVPR 2016, table 1 and figure 5 (left), with `_norm` instead of batch normalisation.
    """

    def _encoder(self, channels: list[int]) -> nn.Module:
        blocks = [
            block
            for before, after in zip((channels[0], *channels), channels, strict=False)
            for block in (ResidualBlock(before, after), ResidualBlock(after, after))
        ]
        return nn.Sequential(
            nn.Conv1d(2, channels[0], 7, stride=2, padding=3, bias=False),
            _norm(channels[0]),
            nn.ReLU(),
            nn.MaxPool1d(3, stride=2, padding=1),  # (B·R, D/8, N/4)
            *blocks,
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
        )


class IqVggNet(_IqNetwork):
    """Pairs of convolutions, each followed by pooling to a quarter.

    Source: Simonyan and Zisserman, ICLR 2015, in one dimension, with `_norm` after each convolution.
    """

    def _encoder(self, channels: list[int]) -> nn.Module:
        stages = [
            stage
            for before, after in zip((2, *channels), channels, strict=False)
            for stage in (*_convolution(before, after), *_convolution(after, after), nn.MaxPool1d(4))
        ]
        return nn.Sequential(*stages, nn.AdaptiveAvgPool1d(1), nn.Flatten())


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut; halves the length where the number of channels grows."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        stride = 1 if before == after else 2
        self.first = nn.Conv1d(before, after, 3, stride=stride, padding=1, bias=False)
        self.first_norm = _norm(after)
        self.second = nn.Conv1d(after, after, 3, padding=1, bias=False)
        self.second_norm = _norm(after)
        self.shortcut = (
            nn.Identity()
            if before == after
            else nn.Sequential(nn.Conv1d(before, after, 1, stride=stride, bias=False), _norm(after))
        )

    def forward(self, signal: Tensor) -> Tensor:
        """Transform (B·R, C, N)."""
        change = self.second_norm(self.second(self.first_norm(self.first(signal)).relu()))
        return (self.shortcut(signal) + change).relu()


def _convolution(before: int, after: int) -> tuple[nn.Module, ...]:
    return nn.Conv1d(before, after, 3, padding=1, bias=False), _norm(after), nn.ReLU()


def _norm(channels: int) -> nn.GroupNorm:
    """Normalise each window by itself: statistics of a batch would include absent receivers."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


def _channels(width: int) -> list[int]:
    if width < _STAGES[0] or width % _STAGES[0]:
        raise ValueError(f"width: {width} is no multiple of {_STAGES[0]}, as the stages' channels need; set one")
    return [width // share for share in _STAGES]


def _power(iq: Tensor) -> Tensor:
    """Mean power of each window (B, R, 2, N), (B, R) mW."""
    return (iq**2).sum(dim=2).mean(dim=-1)
