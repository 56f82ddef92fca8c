"""Whether a fix can be believed: what its measurements say of it, all and one by one, and what no test notices.

One rule for all methods. A fix comes with the measurements that it rests on, linearised where it is. Of those follow
how well they agree with it, how uncertain it is and by what, whether one of them contradicts the others, and how far a
fault of one that is just below notice would move it.

Source: Parkinson and Axelrad, "Autonomous GPS integrity monitoring using the pseudorange residual", Navigation 35
(1988); Brown, "A baseline GPS RAIM scheme", Navigation 39 (1992), for solutions without one measurement each; Baarda, A
testing procedure for use in geodetic networks (1968), for faults just below notice.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import scipy.special

from heimdall_lab.core.arrays import Array, where_rows
from heimdall_lab.localization import delay_law, error_law, information, level_law
from heimdall_lab.localization.observations import CAUSES, Fix, Observations, distances

BUDGET = (*CAUSES, "height")  # what the variance of a fix is made of
_CLOCKS = CAUSES.index("clocks")
SCALED = [CAUSES.index(name) for name in ("noise", "clocks")]  # by how well the measurements agree
_AS_UNCERTAIN = [*SCALED, CAUSES.index("receiver_positions")]  # whose own size is known no better than their scale
FALSE_ALARM = 1e-4  # share of faultless fixes that a test refuses
UNKNOWNS = 3  # that least squares of delays take up: east, north and the offset; the height has a prior
STAND_IN = (
    "silent",
    "unobserved",
    "repeating",
    "noise",
    "uncalibrated",
)  # statuses of fixes that the receivers' middle stands in for
_ELLIPSE_LEVEL = 0.99  # that holds what a fault just below notice moves a fix by, if it is checked
_FEW_SURPLUS = 2  # measurements more than unknowns, up to which a fix is checked weakly
_LEAST_REDUNDANCY = 1e-6  # share of an error that shows in its own residual
_DRAWS = 2**17  # of errors that are not normal


class Evidence(NamedTuple):
    """Measurements of S scenes by R receivers that fixes rest on, linear about each fix.

    They are delays in m or levels in dB, each known but for an offset that all of a scene's have in common.
    """

    used: Array  # (S, R) bool
    residual: Array  # (S, R), measured less expected
    gradient: Array  # (S, R, 3), change of what is expected for 1 m east, north and of the height
    height_residual_m: Array  # (S,), height known beforehand less that of the fix
    variance: Array  # (S, R, CAUSES)
    height_sigma_m: Array  # (S,)
    sigma_freedom: float  # degrees of freedom of what is known of the variances' scale
    is_least_squares: bool = True  # the fixes are where the residuals are least; else their covariances say how near
    has_own_covariance: bool = False  # it goes before what follows of the residuals
    has_own_sensitivity: bool = False  # what the fix does with a measurement is not known
    knows_height: bool = False  # those covariances include what is not known of the height
    least_scale: float = 0.0  # of variances, below which agreement does not bring it: after the worst were left out
    expects_late: bool = False  # whether a share of the measurements is late, so that errors are not normal
    late_ratio: float = 0.0  # that share, which the variance by paths includes
    late_excess_m: float = 0.0  # by how much in the mean
    rests_on_prior: Array | bool = False  # (S,), fixes that follow what is assumed of positions, measured or not
    clock_covariance: Array | None = None  # (S, R, R), of clocks that the recording's other emissions tell, too

    @property
    def unknowns(self) -> int:
        """Directions that the fixes took up of the errors, and the offset."""
        return UNKNOWNS if self.is_least_squares else 1

    @property
    def tells_scale(self) -> bool:
        """Whether residuals tell the scale of the variances."""
        return bool(np.isfinite(self.sigma_freedom)) and not self.expects_late


class Integrity(NamedTuple):
    """What `assess` says of S fixes."""

    covariance: Array  # (S, 2, 2) m²
    freedom: Array  # (S,) degrees of freedom of the law of errors
    budget_m: Array  # (S, BUDGET), rms position error by each cause
    receiver_budget_m: Array  # (S, R, CAUSES), what of that is each receiver's; squares add up
    height_m: Array  # (S,) over that of the fix
    height_sigma_m: Array  # (S,)
    misfit: Array  # (S,) χ² per degree of freedom; NaN where there is none
    status: Array  # (S,): "ok", "misfit" where all measurements together or "link" where one contradicts the others
    suspect: Array  # (S,) int, receiver whose measurement fits worst with the others; −1 where none can be told
    checked: Array  # (S,): "no" without surplus, "weakly" with little or where faults would go unnoticed, or "yes"
    undetected_m: Array  # (S,), how far a fault of one measurement just below notice would move the fix


def delays(observed: Observations, fix: Fix, used: Array, **properties: Any) -> Evidence:
    """Delays (S, R) that fixes rest on, with further ``properties`` of `Evidence`."""
    expected, gradient = distances(observed, fix.latitude_deg, fix.longitude_deg, fix.height_m)
    return Evidence(
        used=used & np.isfinite(observed.pseudorange_m) & np.isfinite(observed.sigma_m),
        residual=observed.pseudorange_m - expected,
        gradient=gradient,
        height_residual_m=observed.height_m - fix.height_m,
        variance=observed.variance_m2,
        height_sigma_m=observed.height_sigma_m,
        sigma_freedom=observed.sigma_freedom,
        expects_late=observed.expects_late,
        late_ratio=observed.nlos_ratio,
        late_excess_m=observed.nlos_excess_m,
        **properties,
    )


def levels(observed: Observations, fix: Fix, used: Array, rests_on_prior: Array) -> Evidence:
    """Levels (S, R) that fixes rest on, some on a prior, too, (S,) bool; they have a covariance of their own."""
    distance, gradient = distances(observed, fix.latitude_deg, fix.longitude_deg)
    distance = np.maximum(distance, 1.0)
    variance = np.zeros((*distance.shape, len(CAUSES)))
    variance[..., CAUSES.index("paths")] = (
        observed.link_sigma_db**2 + level_law.altitude_sigma_db(observed, distance) ** 2
    )
    return Evidence(
        used=used,
        residual=observed.rssi_dbm + level_law.loss_db(observed, distance, observed.transmitter_altitude_m),
        gradient=-level_law.slope_db_per_m(observed, distance, observed.transmitter_altitude_m)[..., None] * gradient,
        height_residual_m=np.zeros(len(distance)),
        variance=variance,
        height_sigma_m=observed.height_sigma_m,
        sigma_freedom=observed.sigma_freedom,
        is_least_squares=False,
        has_own_covariance=True,
        knows_height=True,
        least_scale=1.0,
        rests_on_prior=rests_on_prior,
    )


class _Linear(NamedTuple):
    """The best positions of S scenes by their measurements, as linear equations about their fixes."""

    nothing: Array  # (S,) bool, where nothing is measured
    used: Array  # (S, R) bool
    surplus: Array  # (S,) measurements more than unknowns
    weight: Array  # (S, R), inverse variance of each measurement where all others are known
    spread: Array  # (S, 4, 4), inverse information of east, north, height and offset
    gain: Array  # (S, 4, R), change of these by each measurement
    height_shift: Array  # (S, 2) m, for one standard deviation of the height
    step: Array  # (S, 4) from the fix
    pull: Array  # (S, R), residuals after that, weighed
    chi_squared: Array  # (S,)
    redundancy: Array  # (S, R), share of each error that shows in its own residual

    @property
    def testable(self) -> Array:
        """Measurements of which a fault shows at all, (S, R) bool."""
        return self.used & (self.redundancy > _LEAST_REDUNDANCY)


def assess(fix: Fix, evidence: Evidence | None, freedom: float = np.inf) -> Integrity:
    """Say of each fix how uncertain it is, by what, and whether the measurements that it rests on agree.

    Without evidence nothing is said but the fix's own covariance. ``freedom`` is that of the law of errors that
    covariances of their own belong to.
    """
    unassessed = _unassessed(fix, freedom, 0 if evidence is None else evidence.used.shape[1])
    if evidence is None:
        return unassessed
    linear = _linear(fix, evidence)
    surplus, tested = linear.surplus, linear.surplus > 0
    scale = np.maximum(_variance_scale(evidence, linear.chi_squared, surplus), evidence.least_scale)
    covariance, budget, freedom_of_law = _covariance(fix, evidence, linear, scale)
    freedom_of_law = np.minimum(freedom_of_law, freedom)
    by_receiver, _ = _variances(evidence, linear)
    separation = _separation(evidence, linear)
    largest_misfit, largest_separation = _limits(evidence, linear.used.sum(axis=1), surplus)
    reasons = {
        "link": tested & (separation > largest_separation[:, None]).any(axis=1),
        "misfit": tested & (linear.chi_squared > largest_misfit),
    }
    move = _unnoticed_moves(linear, np.where(tested, largest_separation, 0.0) * scale)
    hidden = _squared_length(move, covariance) > error_law.radius_squared(_ELLIPSE_LEVEL, freedom_of_law)[:, None]
    weakly = (surplus <= _FEW_SURPLUS) | hidden.any(axis=1) | evidence.rests_on_prior | evidence.has_own_sensitivity
    limited = tested & ~np.asarray(evidence.rests_on_prior)  # no measurement shows that a prior is wrong
    undetected_m = np.where(limited, np.hypot(move[:, 0], move[:, 1]).max(axis=1), np.inf)
    assessed = Integrity(
        covariance=covariance,
        freedom=freedom_of_law,
        budget_m=np.sqrt(budget),
        receiver_budget_m=np.sqrt(_shared(by_receiver, budget[:, : len(CAUSES)])),
        height_m=linear.step[:, 2],
        height_sigma_m=np.sqrt(linear.spread[:, 2, 2]),
        misfit=np.where(tested, linear.chi_squared / np.maximum(surplus, 1), np.nan),
        status=np.select(list(reasons.values()), list(reasons), "ok"),
        suspect=np.where(surplus > 1, separation.argmax(axis=1), -1),
        checked=np.select([~tested, weakly], ["no", "weakly"], "yes"),
        undetected_m=np.full_like(undetected_m, np.nan) if evidence.has_own_sensitivity else undetected_m,
    )
    return Integrity(*where_rows(linear.nothing, unassessed, assessed))


def predicted_variances(fix: Fix, evidence: Evidence) -> Array:
    """Variances (S, BUDGET) m² of positions by each cause, before residuals have a say: of the measurements' model."""
    by_receiver, by_others = _variances(evidence, _linear(fix, evidence))
    return np.concatenate([by_receiver.sum(axis=1), by_others], axis=1)


def _linear(fix: Fix, evidence: Evidence) -> _Linear:
    nothing = evidence.used.sum(axis=1) < (1 if evidence.knows_height else 3)
    nothing |= np.isin(fix.status, STAND_IN)
    used = evidence.used & ~nothing[:, None]
    count = used.sum(axis=1)
    jacobian = np.concatenate([evidence.gradient, np.ones_like(evidence.residual)[..., None]], axis=-1)
    jacobian = np.where(used[..., None], jacobian, 0.0)  # (S, R, 4)
    residual = np.where(used, evidence.residual, 0.0)
    residual -= residual.sum(axis=1, keepdims=True) / np.maximum(count, 1)[:, None] * used
    weight, weigh = _weights(evidence, used)
    weighted = weigh(jacobian).swapaxes(1, 2)  # (S, 4, R)
    information_of_all = weighted @ jacobian
    information_of_all[:, 2, 2] += 1 / evidence.height_sigma_m**2
    information_of_all[nothing] = np.eye(4)
    of_measurements = _inverse(information_of_all)
    if evidence.is_least_squares:
        spread = of_measurements
    else:
        information_of_all[:, :2, :2] += np.nan_to_num(information.inverse(fix.covariance))
        spread = _inverse(information_of_all)
    gain = spread @ weighted
    height_weight = np.where(nothing, 0.0, 1 / evidence.height_sigma_m**2)
    pull = (weighted @ residual[..., None])[..., 0]  # (S, 4)
    pull[:, 2] += height_weight * evidence.height_residual_m
    step = (spread @ pull[..., None])[..., 0]
    remaining = residual - (jacobian @ step[..., None])[..., 0]
    squares = (weigh(residual[..., None])[..., 0] * residual).sum(
        axis=1
    ) + height_weight * evidence.height_residual_m**2
    # Least squares take up what measurements say of the height; a fix that keeps to the one beforehand does not.
    keeps_height = evidence.has_own_covariance and not evidence.knows_height
    shift = of_measurements[:, :2, 2] if keeps_height else spread[:, :2, 2]
    scale = evidence.height_sigma_m / of_measurements[:, 2, 2] if keeps_height else 1 / evidence.height_sigma_m
    return _Linear(
        nothing=nothing,
        used=used,
        surplus=np.maximum(count - evidence.unknowns, 0),
        weight=weight,
        spread=spread,
        gain=gain,
        height_shift=shift * scale[:, None],
        step=step,
        pull=weigh(remaining[..., None])[..., 0],
        chi_squared=np.maximum(squares - (pull * step).sum(axis=1), 0.0),
        redundancy=1 - (weighted * gain).sum(axis=1) / np.where(used, weight, 1.0),
    )


def _weights(evidence: Evidence, used: Array) -> tuple[Array, Callable[[Array], Array]]:
    """Weights (S, R) of single measurements, and what multiplies columns (S, R, N) by the inverse covariance of all.

    Source: Kay, Fundamentals of Statistical Signal Processing: Estimation Theory, section 4.5, where errors correlate.
    """
    variance = np.where(used, evidence.variance.sum(axis=-1), 1.0)
    if evidence.clock_covariance is None:
        weight = np.where(used, 1 / variance, 0.0)
        return weight, lambda columns: columns * weight[..., None]
    both = used[:, :, None] & used[:, None]
    covariance = np.where(both, evidence.clock_covariance, 0.0) + variance[..., None] * np.eye(used.shape[1])
    inverse = np.where(both, np.linalg.inv(covariance), 0.0)
    return np.einsum("srr->sr", inverse), lambda columns: inverse @ columns


def _covariance(fix: Fix, evidence: Evidence, linear: _Linear, scale: Array) -> tuple[Array, Array, Array]:
    """Covariance (S, 2, 2) m², what it is made of, (S, BUDGET) m², and its law's freedom, with a factor (S,) on parts.

    The degrees of freedom are those of the scale, and more the more of the whole is known without it
    (`error_law.partly_scaled`).
    """
    gain = linear.gain[:, :2]
    variance = np.where(linear.used[..., None], evidence.variance, 0.0)
    parts = np.einsum("skr,src,slr->sckl", gain, variance, gain, optimize=True)
    if evidence.clock_covariance is not None:
        parts[:, _CLOCKS] += gain @ evidence.clock_covariance @ gain.swapaxes(1, 2)
    parts[:, SCALED] *= scale[:, None, None, None]
    by_height = linear.height_shift[:, :, None] * linear.height_shift[:, None]
    parts = np.concatenate([parts, by_height[:, None]], axis=1)
    budget = np.einsum("sckk->sc", parts)
    if evidence.has_own_covariance:
        covariance = fix.covariance * scale[:, None, None]
        uncertain = np.trace(covariance, axis1=1, axis2=2)
        if evidence.knows_height:
            budget = _shared(budget, uncertain)
        else:
            covariance, budget[:, :-1] = covariance + by_height, _shared(budget[:, :-1], uncertain)
    else:
        covariance, uncertain = parts.sum(axis=1), budget[:, _AS_UNCERTAIN].sum(axis=1)
    freedom = _freedom(evidence, linear.surplus)
    if np.isinf(evidence.sigma_freedom):
        return covariance, budget, freedom
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.nan_to_num(uncertain / np.trace(covariance, axis1=1, axis2=2), nan=1.0)
    # Student's law has wider ellipses than its scale matrix says; covariances are those of the 68 % ellipse.
    wider, freedom = error_law.partly_scaled(share, freedom)
    return covariance * wider[:, None, None], budget * wider[:, None], freedom


def _variances(evidence: Evidence, linear: _Linear) -> tuple[Array, Array]:
    """Variances m² of positions by each receiver and cause (S, R, CAUSES), and by the causes of no receiver, (S, 1)."""
    variance = np.where(linear.used[..., None], evidence.variance, 0.0)
    squared_gain = (linear.gain[:, :2] ** 2).sum(axis=1)
    by_receiver = squared_gain[..., None] * variance
    if evidence.clock_covariance is not None:
        gain = linear.gain[:, :2]
        together = np.einsum("skr,srt,skt->s", gain, evidence.clock_covariance, gain, optimize=True)
        alone = squared_gain * np.einsum("srr->sr", evidence.clock_covariance)
        by_receiver[..., _CLOCKS] += _shared(alone, together)
    return by_receiver, (linear.height_shift**2).sum(axis=1, keepdims=True)


def _shared(parts: Array, whole: Array) -> Array:
    """Variances (S, N) or (S, N, C) in the proportion of parts that make up a whole, (S,) or (S, C)."""
    total = parts.sum(axis=1)
    none = np.where(whole == 0, 0.0, np.nan)
    return parts * np.where(total > 0, whole / np.where(total > 0, total, 1.0), none)[:, None]


def _unassessed(fix: Fix, freedom: float, receivers: int) -> Integrity:
    """What is said of fixes that rest on no measurements that could contradict each other, with their own law."""
    unknown, scenes = np.full(len(fix.status), np.nan), len(fix.status)
    return Integrity(
        covariance=fix.covariance,
        freedom=np.where(fix.converged, freedom, np.inf),
        budget_m=np.full((scenes, len(BUDGET)), np.nan),
        receiver_budget_m=np.full((scenes, receivers, len(CAUSES)), np.nan),
        height_m=np.zeros(scenes),
        height_sigma_m=unknown,
        misfit=unknown,
        status=np.full(scenes, "ok"),
        suspect=np.full(scenes, -1),
        checked=np.full(scenes, "no"),
        undetected_m=np.full(scenes, np.inf),
    )


def _inverse(matrix: Array) -> Array:
    """Inverse of (S, 4, 4) matrices, balanced first; of directions without information, next to none is assumed."""
    balanced, scale = information.balanced(matrix)
    return np.linalg.inv(balanced + 1e-12 * np.eye(4)) * scale[:, :, None] * scale[:, None, :]


def _variance_scale(evidence: Evidence, chi_squared: Array, surplus: Array) -> Array:
    """Factor on variances (S,): what is known of it beforehand, and by the residuals unless late ones are expected."""
    if not evidence.tells_scale:
        return np.ones_like(chi_squared)
    scale: Array = (evidence.sigma_freedom + chi_squared) / (evidence.sigma_freedom + surplus)
    return scale


def _freedom(evidence: Evidence, surplus: Array) -> Array:
    """Degrees of freedom (S,) that the scale of variances is known with in the end."""
    return surplus * evidence.tells_scale + evidence.sigma_freedom


def _separation(evidence: Evidence, linear: _Linear) -> Array:
    """Squares (S, R) of how far fixes without one measurement each are away, over the standard deviation of that."""
    redundancy = np.where(linear.testable, linear.redundancy, 1.0)
    # Of errors that correlate it is Baarda's statistic, e' W v over its standard deviation.
    separation = np.where(linear.testable, linear.pull**2 / (linear.weight * redundancy + ~linear.testable), 0.0)
    if not evidence.tells_scale:
        return separation
    others = evidence.sigma_freedom + linear.surplus - 1
    rest = np.maximum((evidence.sigma_freedom + linear.chi_squared)[:, None] - separation, 1e-9)
    return separation * others[:, None] / rest


def _unnoticed_moves(linear: _Linear, limit: Array) -> Array:
    """Moves (S, 2, R) m by a fault of each measurement whose squared separation is a limit (S,); ∞ where none shows."""
    variance = np.where(linear.testable, linear.weight * linear.redundancy, 1.0)
    fault = np.sqrt(limit[:, None] / variance)
    without_limit = np.where(linear.used, np.inf, 0.0)[:, None]
    return np.where(linear.testable[:, None], linear.gain[:, :2] * fault[:, None], without_limit)


def _limits(evidence: Evidence, count: Array, surplus: Array) -> tuple[Array, Array]:
    """χ² of all measurements, and the square of the largest separation, that FALSE_ALARM of the scenes exceed: (S,)."""
    if evidence.expects_late:
        # By the most precise one, whose errors have the longest tail.
        sigma_m = np.where(evidence.used, np.sqrt(evidence.variance.sum(axis=-1)), np.inf).min(axis=1, initial=np.inf)
        excess = np.minimum(evidence.late_excess_m / sigma_m, _most_excess(evidence.late_ratio))
        laws = zip(count.tolist(), (np.ceil(10 * excess) / 10).tolist(), strict=True)
        limits = np.array([_late_limits(*law, evidence.late_ratio, evidence.unknowns) for law in laws]).reshape(-1, 2)
        return limits[:, 0], limits[:, 1]
    single, others = FALSE_ALARM / np.maximum(count, 1), np.maximum(surplus - 1, 0)
    separation = (
        scipy.special.chdtri(1, single)
        if np.isinf(evidence.sigma_freedom)
        else scipy.special.fdtri(1, evidence.sigma_freedom + others, 1 - single)
    )
    return largest_misfit(surplus, evidence.sigma_freedom), separation


def largest_misfit(surplus: Array, sigma_freedom: float) -> Array:
    """χ² that FALSE_ALARM of the scenes exceed with (S,) more measurements than unknowns, where errors are normal."""
    freedom = np.maximum(surplus, 1)
    if np.isinf(sigma_freedom):
        return scipy.special.chdtri(freedom, FALSE_ALARM)
    return freedom * scipy.special.fdtri(freedom, sigma_freedom, 1 - FALSE_ALARM)


def _most_excess(ratio: float) -> float:
    """Largest mean excess over the standard deviation that it is part of."""
    return float(1 / np.sqrt(delay_law.excess_variance(ratio, 1.0)))


@cache
def _late_limits(count: int, excess: float, ratio: float, unknowns: int) -> tuple[float, float]:
    """Limits of `_limits` for measurements of which a share is late, in units of their standard deviation, by drawing.

    A fix takes up the common offset of their errors, and what lies in as many random directions as there are unknowns.
    The draws are the same every time, so that what is refused depends on the measurements alone.
    """
    if count <= unknowns:
        return np.inf, np.inf
    random = np.random.default_rng(count)
    on_time = delay_law.on_time_sigma(1.0, ratio, excess)
    error = delay_law.draw_errors(random, (_DRAWS, count), on_time, ratio, excess)
    axes = [np.ones_like(error), *random.standard_normal((unknowns - 1, *error.shape))]
    redundancy = np.ones_like(error)
    for number, axis in enumerate(axes):  # Gram and Schmidt
        for other in axes[:number]:
            axis -= (axis * other).sum(axis=1, keepdims=True) * other
        axis /= np.sqrt((axis**2).sum(axis=1, keepdims=True))
        error -= (error * axis).sum(axis=1, keepdims=True) * axis
        redundancy -= axis**2
    separation = np.where(redundancy > _LEAST_REDUNDANCY, error**2 / np.maximum(redundancy, 1e-300), 0.0)
    drawn = (error**2).sum(axis=1), separation.max(axis=1)
    chi_squared, largest = (float(np.quantile(values, 1 - FALSE_ALARM)) for values in drawn)
    return chi_squared, largest


def _squared_length(vector: Array, covariance: Array) -> Array:
    """Squares (S, R) of vectors (S, 2, R) over covariances (S, 2, 2)."""
    inverse = information.inverse(covariance)  # NaN of an ellipse without width, which holds nothing
    with np.errstate(invalid="ignore"):
        squared = (vector * (inverse @ vector)).sum(axis=1)
    return np.where((vector != 0).any(axis=1), np.nan_to_num(squared, nan=np.inf), 0.0)
