"""Attention over receivers on their features."""

import torch
from torch import Tensor

from heimdall_lab.learning.architectures.layers import (
    Head,
    Localizer,
    ReceiverAttention,
    Standardise,
    feed_forward,
    size_km,
)
from heimdall_lab.localization.learned import inputs


class Triangulation(Localizer):
    """Each present receiver is one token: its features and its position."""

    inputs = ("features", "position", "present")

    def __init__(self, width: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        count = len(inputs.FEATURES)
        self.standardise = Standardise("features", count)
        self.embed = feed_forward(count + 2, width, width)
        self.attention = ReceiverAttention(width, heads, layers, dropout)
        self.head = Head(width)

    def locate(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See `Localizer.locate`."""
        position, present = batch["position"], batch["present"]
        relative_position = position / size_km(position, present)[:, None, None]
        features = torch.cat([self.standardise(batch["features"]), relative_position], dim=-1)  # (B, R, F + 2)
        tokens = self.attention(self.embed(features), present)  # (B, R, D)
        return self.head(tokens, position, present)
