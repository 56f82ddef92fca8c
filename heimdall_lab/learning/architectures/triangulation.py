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
    """Each receiver is one token: its features, its position, and that it is present."""

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
        place = position / size_km(position, present)[:, None, None]
        seen = torch.cat([self.standardise(batch["features"]), place], dim=-1)  # (B, R, F + 2)
        tokens = self.attention(self.embed(seen), present)  # (B, R, D)
        return self.head(tokens, position, present)
