"""Attention that weights the delay of each receiver, and Gauss-Newton steps that solve for the position."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from heimdall_lab.core.units import EARTH_RADIUS_KM
from heimdall_lab.learning.architectures.layers import (
    Localizer,
    ReceiverAttention,
    Standardise,
    feed_forward,
    mean_over,
    size_km,
)
from heimdall_lab.localization.learned import inputs

_PRIOR_SIZES = 3.0  # prior standard deviation of the transmitter's distance from the centroid, in sizes of the network
_STARTS = ((0.0, 0.0), (1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (-1.0, -1.0))  # in sizes of the network, from its centroid
_INITIAL_STEPS = 8
_TIE_MARGIN = 1e-3  # χ² by which the fix of a later start must be better
_STEPS_PER_ROUND = 3
_LARGE_RESIDUAL = 10.0  # standard deviations
_LOG_WEIGHTS = (-12.0, 4.0)  # bounds of the logarithm of the factor on inverse variances


class Delays(NamedTuple):
    """Delays of B scenes, and the receivers that measured them.

    Attributes
    ----------
    receiver : (B, R, 2) km
    height_difference : (B, R) km
        Altitude of the transmitter, taken as the mean of the receivers', over the receiver's.
    pseudorange : (B, R) km
    weight : (B, R) km⁻²
        Inverse variance of a pseudo-range; 0 where nothing is heard.
    centroid : (B, 2) km
        Of the receivers that hear the signal.
    size : (B,) km
        Of the network.
    """

    receiver: Tensor
    height_difference: Tensor
    pseudorange: Tensor
    weight: Tensor
    centroid: Tensor
    size: Tensor


class TdoaUnrolled(Localizer):
    """Rounds of attention and Gauss-Newton steps: the residuals of each fix determine the weights of the next.

    The first fix is that of weighted least squares. In each round, attention over the receivers gives a factor on the
    inverse variance of each delay, and a bias to subtract from it; before training, 1 and 0.
    """

    inputs = ("features", "position", "present")

    def __init__(self, width: int, heads: int, layers: int, rounds: int, dropout: float) -> None:
        super().__init__()
        count = len(inputs.FEATURES)
        self.standardise = Standardise("features", count)
        self.embed = feed_forward(count, width, width)
        # The attributes' names are keys of stored weights, here and in `_DelayWeighting`.
        self.believe = nn.ModuleList(_DelayWeighting(width, heads, layers, dropout) for _ in range(rounds))
        self.widen = feed_forward(width + 2, width, 3, start_at_zero=True)

    def refine(self, batch: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """See `Localizer.refine`."""
        # In double precision: where delays hardly constrain a direction, rounding grows a thousandfold in the steps.
        delays = Delays(*(values.double() for values in _delays(batch)))
        sigma = _feature(batch, "log_sigma_on_time").double().exp()  # (B, R) km
        heard = delays.weight > 0
        tokens = self.embed(self.standardise(batch["features"]))  # (B, R, D)
        with torch.no_grad():
            position = _least_squares(delays)
        fixes = []
        for weighting in self.believe:
            tokens, factor, bias = weighting(
                tokens, _residual_features(delays, position, sigma).to(tokens.dtype), heard
            )
            weighted = delays._replace(
                pseudorange=delays.pseudorange - bias * sigma, weight=torch.where(heard, factor / sigma**2, 0.0)
            )
            for _ in range(_STEPS_PER_ROUND):
                position, information = _gauss_newton_step(weighted, position)
            cholesky = self._corrected(_inverse(information).to(tokens.dtype), tokens, heard)
            fixes.append((position.to(tokens.dtype), cholesky))
        return fixes

    def _corrected(self, cholesky: Tensor, tokens: Tensor, heard: Tensor) -> Tensor:
        """Multiply the Cholesky factor (B, 3) of the Gauss-Newton covariance by a learned one."""
        mean = mean_over(tokens, heard)  # (B, D)
        count = heard.sum(dim=1, keepdim=True)
        spread = (cholesky[:, :1] * cholesky[:, 2:]).log()
        first, between, last = self.widen(torch.cat([mean, spread, count.to(mean.dtype)], dim=-1)).unbind(dim=-1)
        first, last = first.exp(), last.exp()
        own_first, own_between, own_last = cholesky.unbind(dim=-1)
        return torch.stack([own_first * first, own_between * first + own_last * between, own_last * last], dim=-1)


class _DelayWeighting(nn.Module):
    """Weight and bias of each delay, from the residuals of the last fix."""

    def __init__(self, width: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.see = feed_forward(5, width, width)
        self.attention = ReceiverAttention(width, heads, layers, dropout)
        self.judge = feed_forward(width, width, 2, start_at_zero=True)

    def forward(self, tokens: Tensor, residuals: Tensor, heard: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """New tokens (B, R, D), factors on the weights (B, R), and biases (B, R) in standard deviations."""
        tokens = self.attention(tokens + self.see(residuals), heard)
        log_factor, bias = self.judge(tokens).unbind(dim=-1)
        return tokens, log_factor.clamp(*_LOG_WEIGHTS).exp(), bias


def _feature(batch: dict[str, Tensor], name: str) -> Tensor:
    return batch["features"][..., inputs.FEATURES.index(name)]  # (B, R)


def _delays(batch: dict[str, Tensor]) -> Delays:
    receiver, present = batch["position"], batch["present"]
    heard = present & (_feature(batch, "heard") > 0)
    altitude = _feature(batch, "height_km") + (receiver**2).sum(dim=-1) / (2 * EARTH_RADIUS_KM)
    return Delays(
        receiver,
        mean_over(altitude[..., None], heard) - altitude,
        _feature(batch, "range_difference_km"),
        torch.where(heard, (-2 * _feature(batch, "log_sigma")).exp(), 0.0),
        mean_over(receiver, heard),
        size_km(receiver, present),
    )


def _ranges(delays: Delays, position: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (B, R) km from positions (B, 2) km on the tangent plane, and their gradients (B, R, 2)."""
    apart = position[:, None] - delays.receiver
    # The Earth's surface drops below the plane by the square of the distance over twice its radius.
    drop = ((position**2).sum(dim=-1)[:, None] - (delays.receiver**2).sum(dim=-1)) / (2 * EARTH_RADIUS_KM)
    ranges = ((apart**2).sum(dim=-1) + (delays.height_difference - drop) ** 2 + 1e-6).sqrt()
    return ranges, apart / ranges[..., None]


def _centred(delays: Delays, values: Tensor) -> Tensor:
    """Values (B, R, K) less their weighted mean, which eliminates a common clock offset."""
    weight = delays.weight[..., None]
    return values - (weight * values).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True).clamp(min=1e-12)


def _residuals(delays: Delays, ranges: Tensor) -> Tensor:
    """Residuals (B, R) km of the pseudo-ranges after distances (B, R) and one clock offset."""
    return _centred(delays, (delays.pseudorange - ranges)[..., None])[..., 0]


def _gauss_newton_step(delays: Delays, position: Tensor) -> tuple[Tensor, Tensor]:
    """One Gauss-Newton step, no longer than the network: (B, 2) km, and the Cholesky factor of the information (B, 3).

    A wide normal prior around the centroid holds the position in directions that no delay constrains.
    """
    ranges, gradient = _ranges(delays, position)
    columns = _centred(delays, torch.cat([gradient, (delays.pseudorange - ranges)[..., None]], dim=-1))  # (B, R, 3)
    product = columns.transpose(1, 2) @ (delays.weight[..., None] * columns)  # (B, 3, 3)
    prior = (_PRIOR_SIZES * delays.size) ** -2  # (B,)
    root = _cholesky(product[:, 0, 0] + prior, product[:, 0, 1], product[:, 1, 1] + prior)
    step = _solve(root, product[:, :2, 2] + (delays.centroid - position) * prior[:, None])
    length = (step**2).sum(dim=-1).clamp(min=1e-18).sqrt()
    return position + step * (delays.size / length).clamp(max=1.0)[:, None], root


def _cholesky(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Lower factor (B, 3) of matrices [[a, b], [b, c]]."""
    first = a.sqrt()
    between = b / first
    return torch.stack([first, between, (c - between**2).clamp(min=1e-12).sqrt()], dim=-1)


def _solve(root: Tensor, right: Tensor) -> Tensor:
    """Solve L Lᵀ x = right for (B, 2)."""
    first, between, last = root.unbind(dim=-1)
    u = right[:, 0] / first
    y = (right[:, 1] - between * u) / last**2
    return torch.stack([(u - between * y) / first, y], dim=-1)


def _inverse(root: Tensor) -> Tensor:
    """Lower factor (B, 3) of the inverse of L Lᵀ."""
    first, between, last = root.unbind(dim=-1)
    norm = (between**2 + last**2).sqrt()
    return torch.stack([norm / (first * last), -between / (last * norm), 1 / norm], dim=-1)


def _least_squares(delays: Delays) -> Tensor:
    """Positions (B, 2) km of least squares, the best of several starts."""
    repeated = Delays(*(torch.cat([values] * len(_STARTS)) for values in delays))  # (starts · B, …), side by side
    sizes = delays.size[:, None]
    position = torch.cat([delays.centroid + sizes * delays.centroid.new_tensor(start) for start in _STARTS])
    for _ in range(_INITIAL_STEPS):
        position, _ = _gauss_newton_step(repeated, position)
    ranges, _ = _ranges(repeated, position)
    prior = ((position - repeated.centroid) ** 2).sum(dim=1) / (_PRIOR_SIZES * repeated.size) ** 2
    cost = (repeated.weight * _residuals(repeated, ranges) ** 2).sum(dim=1) + prior
    # Two positions may fit few delays equally well: then the order of starts decides, not rounding.
    margin = _TIE_MARGIN * torch.arange(len(_STARTS), device=cost.device)[:, None]
    best = (cost.unflatten(0, (len(_STARTS), -1)) + margin).argmin(dim=0)  # (B,)
    chosen = best[None, :, None].expand(1, -1, 2)
    return position.unflatten(0, (len(_STARTS), -1)).gather(0, chosen)[0]


def _residual_features(delays: Delays, position: Tensor, sigma: Tensor) -> Tensor:
    """Residuals of a fix, and distance and direction of each receiver from it, (B, R, 5)."""
    ranges, gradient = _ranges(delays, position)
    residual = _residuals(delays, ranges) / sigma
    distance = ranges / delays.size[:, None]
    made = [_asinh(residual), _asinh(residual / _LARGE_RESIDUAL), distance, gradient[..., 0], gradient[..., 1]]
    return torch.where((delays.weight > 0)[..., None], torch.stack(made, dim=-1), 0.0)


def _asinh(values: Tensor) -> Tensor:
    """Inverse hyperbolic sine, which ONNX export lacks: linear when small, logarithmic when large."""
    return values.sign() * (values.abs() + (values**2 + 1).sqrt()).log()
