"""Attention that weighs the delays of each receiver, and the Gauss-Newton steps that solve for the position."""

from torch import Tensor, nn

from heimdall_lab import inputs
from heimdall_lab.models.layers import Localizer, ReceiverAttention, Standardise


class TdoaUnrolled(Localizer):
    """PROTOTYPE."""

    inputs = ("features", "position", "present")

    def __init__(self, width: int, heads: int, layers: int, dropout: float, rounds: int = 3, steps: int = 4) -> None:
        super().__init__()
        count = len(inputs.FEATURES)
        self.rounds, self.steps = rounds, steps
        self.column = {name: inputs.FEATURES.index(name) for name in inputs.FEATURES}
        self.standardise = Standardise("features", count)
        self.embed = nn.Linear(count + 2, width)
        self.residual = nn.Linear(4, width)
        self.attention = ReceiverAttention(width, heads, layers, dropout)
        self.out = nn.Linear(width, 2)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.inflate = nn.Sequential(nn.Linear(width + 2, width), nn.GELU(), nn.Linear(width, 3))
        nn.init.zeros_(self.inflate[-1].weight)
        nn.init.zeros_(self.inflate[-1].bias)

    def locate(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See `Localizer.locate`."""
        raise NotImplementedError
