"""ConvNeXt on mel spectrograms, shared over receivers, then attention over the receivers."""

import torch
from torch import Tensor, nn

from heimdall_lab.core.text import quoted
from heimdall_lab.datasets.schema import MEL_BANDS
from heimdall_lab.learning.architectures.layers import (
    Head,
    Localizer,
    ReceiverAttention,
    Standardise,
    feed_forward,
    levels_db,
    size_km,
)

SIZES = {  # blocks and channels of each stage; Liu et al., CVPR 2022, section 3, and for atto Woo et al., CVPR 2023
    "atto": ((2, 2, 6, 2), (40, 80, 160, 320)),
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
}

_LAYER_SCALE = 1e-6
_WEIGHT_DEVIATION = 0.02


class LocalizationNet(Localizer):
    """Each receiver is one token: its spectrogram encoded by ConvNeXt, its level, and its position."""

    inputs = ("spectrogram", "position", "present")

    def __init__(self, size: str, width: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"size: {quoted(size)} is unknown; choose one of {', '.join(SIZES)}")
        depths, channels = SIZES[size]
        self.standardise_bands = Standardise("bands", MEL_BANDS)
        self.standardise_levels = Standardise("levels", 2)
        self.encoder = _encoder(depths, channels)
        self.dropout = nn.Dropout(dropout)
        self.embed = nn.Linear(channels[-1] + 4, width)
        self.attention = ReceiverAttention(width, heads, layers, dropout)
        self.head = Head(width)

    def derived(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Localizer.derived`: levels, over the scene's mean too, and the density of each band over the level."""
        spectrogram = batch["spectrogram"].transpose(-1, -2)  # (B, R, 32, 128)
        levels = levels_db((10 ** (spectrogram / 10)).mean(dim=(-1, -2)), batch["present"])  # (B, R, 2)
        return {"bands": spectrogram - levels[..., :1, None], "levels": levels}

    def locate(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See `Localizer.locate`."""
        position, present = batch["position"], batch["present"]
        derived = self.derived(batch)
        picture = self.standardise_bands(derived["bands"]).transpose(-1, -2)  # (B, R, 128, 32)
        encoded = self.encoder(picture.flatten(0, 1)[:, None]).reshape(*present.shape, -1)  # (B, R, C)
        level = self.standardise_levels(derived["levels"])
        relative_position = position / size_km(position, present)[:, None, None]
        tokens = self.embed(torch.cat([self.dropout(encoded), level, relative_position], dim=-1))  # (B, R, D)
        return self.head(self.attention(tokens, present), position, present)


class ConvNextBlock(nn.Module):
    """Depthwise convolution, then a perceptron over channels, with a residual connection.

    Source: Liu et al., CVPR 2022, figure 4; without stochastic depth.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pointwise = feed_forward(channels, 4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), _LAYER_SCALE))

    def forward(self, picture: Tensor) -> Tensor:
        """Transform (B·R, C, H, W)."""
        change = self.depthwise(picture).permute(0, 2, 3, 1)  # (B·R, H, W, C)
        change = self.scale * self.pointwise(self.norm(change))
        return picture + change.permute(0, 3, 1, 2)


class _ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (B·R, C, H, W)."""

    def forward(self, picture: Tensor) -> Tensor:
        return super().forward(picture.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _encoder(depths: tuple[int, ...], channels: tuple[int, ...]) -> nn.Sequential:
    """From (B·R, 1, 128, 32) to (B·R, C)."""
    modules: list[nn.Module] = [nn.Conv2d(1, channels[0], 4, stride=4), _ChannelNorm(channels[0], eps=1e-6)]
    for number, (depth, after) in enumerate(zip(depths, channels, strict=True)):
        if number:
            before = channels[number - 1]
            modules += [_ChannelNorm(before, eps=1e-6), nn.Conv2d(before, after, 2, stride=2)]
        modules += [ConvNextBlock(after) for _ in range(depth)]
    encoder = nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(channels[-1], eps=1e-6))
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=_WEIGHT_DEVIATION)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return encoder
