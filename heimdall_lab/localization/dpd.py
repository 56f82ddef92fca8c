"""Direct position determination: the position under which the IQ of all receivers fits one waveform best.

Nothing is decided receiver by receiver, so that even those in which the signal cannot be found alone add to the fix.
"""

from typing import NamedTuple

import numpy as np
import scipy.fft
import xarray as xr
from numba import njit

from heimdall_lab.core import geodesy
from heimdall_lab.core.arrays import Array, phasor
from heimdall_lab.core.interpolation import LEAD, PHASES, TABLE, TAPS
from heimdall_lab.core.units import SPEED_OF_LIGHT
from heimdall_lab.datasets import schema
from heimdall_lab.localization import baselines, bounds, observations
from heimdall_lab.localization.observations import MAX_RANGE_M, Fix, Observations
from heimdall_lab.signals import pairs, spectra

_BATCH_IQ_SAMPLES = 2**20
_SIDE = 40  # grid positions along each side of the square that is searched, of which each 2 × 2 yield one start
_REACH = 2.0  # half of that side, in distances of the outermost receiver from the middle of all
_STARTS = 8  # of the grid that are climbed
_STEPS = 30
_FADE = 64  # samples at either end of a window, in which it rises and falls
_DIFFERENCE = 0.1  # samples by which delays are changed to see the slope and curvature of the likelihood
_PARABOLAS = 10  # that are laid against the likelihood, one after the other
_LEAST_SIGMA_S, _MOST_SIGMA_S = 1e-9, 1.0  # of clocks that are called perfect, and of unknown ones
# Polynomials in the fraction of a sample, (degree, tap), in the place of the table's steps, at whose kinks no climb
# would come to rest: Farrow, Proc. IEEE Int. Symp. Circuits and Systems (1988). They follow the table to its rounding.
_FARROW = np.polynomial.polynomial.polyfit(np.arange(PHASES + 1) / PHASES, TABLE.astype(float), 11)
_GUMBEL_MEAN, _GUMBEL_SIGMA = np.euler_gamma, np.pi / 6**0.5  # of the largest of many exponential variables, less ln n
_CHANCE_SIGMAS = 7.0  # above the noise's mean, which the best of some thousand positions does not reach


class _Signals(NamedTuple):
    """Whitened IQ of S scenes.

    Attributes
    ----------
    voltage : (S, R, K) complex128
        At half of the sample rate; noise has unit variance before the weight, the root of the signal's share.
    share : (S, 2 K)
        Of signal in the sum of all receivers, at 2 K frequencies of the inner half of the band, ascending.
    rms_hz : (S,)
        Rms bandwidth of the signal.
    duration : int
        Samples of the window.
    """

    voltage: Array
    share: Array
    rms_hz: Array
    duration: int


def dpd(observed: Observations, dataset: xr.Dataset, measured: xr.Dataset) -> Fix:
    """Most likely position given the IQ of all receivers; waveform, phases and frequency offsets are unknown.

    For every position the delays that it implies are taken off the whitened signals. The largest eigenvalue of their
    Gram matrix, in which a frequency weighs by its share of signal, is the log likelihood. It is climbed together with
    one delay error a receiver, normal with the standard deviation of clock and path: where those exceed what noise
    does, the eigenvalue alone would trust the strongest receivers too much.

    It is no fix if no more than two receivers agree better than by chance, if clocks (ntp, none) or paths err by more
    than the main lobe of the correlation is wide, or if it is uncertain by more than receivers can hear.

    Raises
    ------
    ValueError
        If the dataset holds no IQ.

    Source: Weiss, "Direct position determination of narrowband radio frequency transmitters", IEEE Signal Process.
    Lett. 11 (2004); frequency offsets as Amar and Weiss, IEEE Trans. Signal Process. 56 (2008), but each
    receiver's own.
    """
    _require_iq(dataset)
    per_batch = _BATCH_IQ_SAMPLES // (dataset.sizes["receiver"] * dataset.sizes["time"])
    fix = Fix.concatenate(
        _fix(batch, dataset.isel(sample=rows).load(), measured.fdoa_hz.values[rows])
        for rows, batch in observed.batches(per_batch)
    )
    return baselines.or_centroid(fix, observed)


def likelihood(scene: xr.Dataset, side: int = 201) -> xr.DataArray:
    """Log likelihood of the transmitter's position in one scene, over that of the best position on the map.

    Parameters
    ----------
    scene : xr.Dataset
        One sample of a dataset with IQ, without the dimension ``sample``.
    side : int
        Positions along each axis.

    Returns
    -------
    xr.DataArray
        Dims (north, east), m on the tangent plane at the centroid of the present receivers, the plane of
        `estimators.locate`. Clocks and paths are taken as perfect.

    Raises
    ------
    ValueError
        If the scene holds no IQ or is more than one, or the map has fewer than two positions along an axis.
    """
    if "sample" in scene.dims:
        raise ValueError(f"scene: holds {scene.sizes['sample']} samples; choose one with .isel(sample=0)")
    _require_iq(scene)
    if side < 2:
        raise ValueError(f"side: {side} positions span no map; give at least 2")
    dataset = scene.expand_dims("sample").transpose("sample", "receiver", ...)
    measured = pairs.pair_features(dataset)
    observed = observations.from_dataset(dataset, measured)
    _, table, _ = _joint(observed, dataset, _signals(dataset), measured.fdoa_hz.values)
    plane, axis_m = _grid(observed, side)
    value = _eigenvalues(table, _delays(observed, plane, dataset.attrs["sample_rate_hz"]), _FARROW)[0].reshape(
        side, side
    )
    return xr.DataArray(
        value - value.max(),
        {name: (name, axis_m[0], {"units": "m"}) for name in ("north", "east")},
        ("north", "east"),
        "log_likelihood",
        {"units": "1", "long_name": "log likelihood over that of the best position"},
    )


def _require_iq(dataset: xr.Dataset) -> None:
    """Raise ValueError if there is no IQ."""
    if "iq" not in dataset:
        raise ValueError("iq: is missing; dpd needs a dataset of iq_raw, so choose another method")


def _fix(observed: Observations, batch: xr.Dataset, fdoa_hz: Array) -> Fix:
    """Fixes of one batch of scenes."""
    rate_hz = batch.attrs["sample_rate_hz"]
    signals = _signals(batch)
    sigma_s = _model_sigma_s(batch)
    start, table, found = _joint(observed, batch, signals, fdoa_hz)
    latitude, longitude, covariance, value = _climb(observed, table, start, sigma_s * rate_hz, rate_hz)  # (S, K, ...)
    centre = baselines.centroid(observed)
    distance, _ = geodesy.geodesic(latitude, longitude, centre.latitude_deg[:, None], centre.longitude_deg[:, None])
    spread = np.sqrt(np.trace(covariance, axis1=-2, axis2=-1))
    value = np.where(np.maximum(distance, spread) < MAX_RANGE_M[observed.propagation], value, -np.inf)
    # Of summits less than half a nat apart, equally likely ones, the one nearest the receivers is taken.
    equal = value >= value.max(axis=1, keepdims=True) - 0.5
    best = np.arange(len(start)), np.where(equal, distance, np.inf).argmin(axis=1)
    # Delay errors of one radian at the rms bandwidth leave the main lobe of the correlation; unknown ones may.
    in_lobe = (2 * np.pi * signals.rms_hz[:, None] * sigma_s < 1).all(axis=1)
    return Fix(latitude[best], longitude[best], covariance[best], found & in_lobe & np.isfinite(value[best]))


def _model_sigma_s(batch: xr.Dataset) -> Array:
    """Standard deviation of each receiver's delay by clock and path, (1, R) s; as good as none where unknown."""
    sigma_s = np.nan_to_num(np.sqrt(bounds.delay_model_variance(batch)), nan=_MOST_SIGMA_S)
    return np.broadcast_to(sigma_s.clip(_LEAST_SIGMA_S, _MOST_SIGMA_S), (1, batch.sizes["receiver"]))


@np.errstate(divide="ignore", invalid="ignore")  # an absent receiver has neither signal nor noise
def _signals(batch: xr.Dataset) -> _Signals:
    """Whiten and weight the signals."""
    rate_hz = batch.attrs["sample_rate_hz"]
    voltage = np.nan_to_num(schema.iq(batch).transpose("sample", "receiver", "time").values)
    spectrum = spectra.power_spectrum(voltage, rate_hz)
    noise = spectra.noise_density(spectrum)  # (S, R)
    used = batch.receiver_present.values & (noise > 0)
    count = np.maximum(used.sum(axis=1), 1)[:, None]
    mean = np.where(used[..., None], spectrum.density / noise[..., None], 0.0).sum(axis=1) / count  # (S, F)
    # The mean of R receivers has the noise of one, and its share of signal; their sum has R times its signal to noise.
    together = spectrum._replace(density=mean, averages=spectrum.averages * count)
    of_one = spectra.wiener_weight(together, np.ones(len(mean)))
    share = count * of_one / (1 - of_one + count * of_one)
    rms_hz = spectra.rms_bandwidth_hz(spectrum.frequency_hz, of_one * mean)

    num_time = voltage.shape[-1]
    length = 4 * scipy.fft.next_fast_len(-(-num_time // 2))  # at least twice the window, so that lags do not wrap
    bins = np.arange(-(length // 4), length // 4)
    share = share[:, ((bins / length + 0.5) * share.shape[-1]).astype(int)]
    scale = np.where(used, 1 / np.sqrt(2 * noise * rate_hz), 0.0)
    spectra_in_band = scipy.fft.fft(voltage * scale[..., None], n=length, axis=-1)[..., bins] * np.sqrt(share)[:, None]
    half_rate = scipy.fft.ifft(np.fft.ifftshift(spectra_in_band, axes=-1), axis=-1)[..., : length // 4]
    return _Signals(half_rate, share, rms_hz, num_time)


def _joint(observed: Observations, batch: xr.Dataset, signals: _Signals, fdoa_hz: Array) -> tuple[Array, Array, Array]:
    """Search the tangent plane with frequency offsets unknown, and correlate all pairs with those found.

    Against the reference alone, the likelihood is the sum of the pairs' squared cross-ambiguities, each at its best
    frequency. It chooses the frequencies, and the starts among whose summits the joint likelihood decides.

    Returns
    -------
    start : (S, K, 2) m
        Best positions of a grid over the tangent plane, and some around the strongest receiver.
    table : (S, R, R, L)
        As `_eigenvalues` takes it.
    found : (S,) bool
        At least three receivers agree better than by chance.
    """
    rate_hz = batch.attrs["sample_rate_hz"]
    rows = np.arange(len(observed.reference))
    plane, axis_m = _grid(observed, _SIDE)
    delay = _delays(observed, plane, rate_hz)  # (S, G, R)
    present = np.isfinite(observed.latitude_deg)[:, None]
    relative = np.where(present, delay - delay[rows, :, observed.reference][..., None], 0.0)
    widest = int(np.abs(relative).max()) // 2 + 2
    max_hz = 2 * batch.attrs["max_frequency_offset_hz"]
    power, bins = _power_over_noise(signals, observed.reference, widest, max_hz, rate_hz)

    place = relative / 2 + widest  # two samples a lag
    below = place.astype(int)
    receiver = np.arange(delay.shape[2])
    at_grid = power[rows[:, None, None], receiver, below] * (below + 1 - place)
    at_grid += power[rows[:, None, None], receiver, below + 1] * (place - below)
    total = at_grid.sum(axis=2)
    # The best of neighbours, so that starts lie on either side of a receiver, and all along a ridge.
    half = _SIDE // 2
    blocks = np.arange(_SIDE**2).reshape(half, 2, half, 2).swapaxes(1, 2).reshape(-1, 4)
    heads = blocks[np.arange(len(blocks)), total[:, blocks].argmax(axis=2)]  # (S, _SIDE² / 4)
    order = np.argsort(-np.take_along_axis(total, heads, axis=1), axis=1, kind="stable")[:, :_STARTS]
    starts = np.take_along_axis(heads, order, axis=1)
    best = at_grid[rows, starts[:, 0]]  # (S, R)
    lag = np.rint(relative[rows, starts[:, 0]] / 2).astype(int)
    frequency_hz = _frequencies(signals, observed.reference, lag, max_hz, rate_hz)
    exact = np.abs(fdoa_hz - frequency_hz) < rate_hz / signals.duration / 2  # the peak that a pair found alone is this
    table = _correlations(signals, np.where(exact, fdoa_hz, frequency_hz), _longest_lag(observed, batch), rate_hz)

    # The strongest pair alone is a hyperbola; what the others add must be more than noise would.
    others = present.sum(axis=(1, 2)) - 2
    excess = best.sum(axis=1) - best.max(axis=1) - others * (np.log(bins) + _GUMBEL_MEAN)
    found = (others > 0) & (excess > _CHANCE_SIGMAS * _GUMBEL_SIGMA * np.sqrt(np.maximum(others, 1)))
    # Close to the strongest receiver the likelihood turns faster than the grid sees, and behind it lies a flat ridge.
    latitude, longitude = (
        degrees[rows, observed.reference] for degrees in (observed.latitude_deg, observed.longitude_deg)
    )
    station = observations.Fix(latitude, longitude, None, None)
    around = (axis_m[:, 1] - axis_m[:, 0])[:, None, None] * np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
    around = observations.tangent_plane(observed, station)[:, None] + around
    return np.concatenate([plane[rows[:, None], starts], around], axis=1), table, found


def _grid(observed: Observations, side: int) -> tuple[Array, Array]:
    """Positions (S, side², 2) m in a square on the tangent plane, rows northward; and one axis (S, side) m."""
    latitude, longitude = geodesy.tangent_plane_origin(observed.latitude_deg, observed.longitude_deg)
    position = geodesy.ecef(observed.latitude_deg, observed.longitude_deg, observed.altitude_m)
    radius = np.nanmax(geodesy.length(geodesy.enu(position, latitude, longitude)), axis=1)
    axis = _REACH * radius[:, None] * np.linspace(-1, 1, side)
    east, north = np.broadcast_arrays(axis[:, None, :], axis[:, :, None])
    return np.stack([east, north], axis=-1).reshape(len(axis), -1, 2), axis


def _delays(observed: Observations, plane: Array, rate_hz: float) -> Array:
    """Delays (S, G, R) from positions on the tangent plane, in samples; 0 where no receiver is."""
    return np.nan_to_num(observations.grid_distances(observed, plane)) / SPEED_OF_LIGHT * rate_hz


def _longest_lag(observed: Observations, batch: xr.Dataset) -> int:
    """Samples that the signals of two receivers can be apart, by baseline, clocks and paths, up to 1 ms of those."""
    position = geodesy.ecef(observed.latitude_deg, observed.longitude_deg, observed.altitude_m)
    baseline_m = np.nanmax(geodesy.length(position[:, :, None] - position[:, None]))
    error_s = min(10 * _model_sigma_s(batch).max(), 1e-3)
    # Over ground the arc is longer than the chord, by 0.1 % at 1,000 km and 3 % at 5,000 km.
    return int((1.03 * baseline_m / SPEED_OF_LIGHT + error_s) * batch.attrs["sample_rate_hz"]) + TAPS


def _power_over_noise(
    signals: _Signals, reference: Array, widest: int, max_hz: float, rate_hz: float
) -> tuple[Array, int]:
    """Squared cross-ambiguity with the reference at its best frequency, over its mean in noise.

    Returns
    -------
    power : (S, R, 2 · widest + 1)
        At lags of two samples, from −widest on; 0 of the reference itself.
    bins : int
        Frequencies among which the best was chosen.
    """
    rows = np.arange(len(reference))
    strongest = signals.voltage[rows, reference]
    # Noise of unit variance in the band, weighted, times the reference.
    spectrum = _spectrum(strongest, signals.share.shape[-1])
    noise = (signals.share * np.abs(spectrum) ** 2).mean(axis=-1)
    padded = np.pad(signals.voltage, ((0, 0), (0, 0), (widest, widest)))
    num_time = strongest.shape[-1]
    power = np.stack(
        [
            np.abs(_low_frequencies(padded[..., first : first + num_time], strongest, max_hz, rate_hz, 2)[1]) ** 2
            for first in range(2 * widest + 1)
        ],
        axis=-2,
    )  # (S, R, L, F)
    power[rows, reference] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):  # a network that hears nothing at all has no weight either
        return np.nan_to_num(power.max(axis=-1) / noise[:, None, None]), power.shape[-1]


def _frequencies(signals: _Signals, reference: Array, lag: Array, max_hz: float, rate_hz: float) -> Array:
    """Frequency offsets (S, R) against the reference at given lags of two samples, Hz."""
    rows, num_time = np.arange(len(reference)), signals.voltage.shape[-1]
    time = lag[..., None] + np.arange(num_time)
    inside = (time >= 0) & (time < num_time)
    aligned = np.where(inside, np.take_along_axis(signals.voltage, time.clip(0, num_time - 1), axis=-1), 0.0)
    frequency_hz, values = _low_frequencies(aligned, signals.voltage[rows, reference], max_hz, rate_hz, 32)
    return frequency_hz[np.abs(values).argmax(axis=-1)]


def _low_frequencies(
    aligned: Array, strongest: Array, max_hz: float, rate_hz: float, oversampling: int
) -> tuple[Array, Array]:
    """Spectra (S, R, F) of signals (S, R, K) times the conjugate reference (S, K), and their frequencies (F,) Hz.

    Only frequencies up to ``max_hz`` are looked at. Sums over blocks so short that those fall by 0.2 dB at most replace
    the samples.
    """
    num_time = strongest.shape[-1]
    block = min(num_time, max(1, int(rate_hz / 2 / (8 * max_hz)))) if max_hz > 0 else num_time
    blocks = num_time // block
    product = (aligned * strongest.conj()[:, None])[..., : blocks * block]
    sums = product.reshape(*product.shape[:-1], blocks, block).sum(axis=-1)
    length = oversampling * blocks
    frequency_hz = np.fft.fftfreq(length, 2 * block / rate_hz)
    kept = np.abs(frequency_hz) <= max_hz
    return frequency_hz[kept], scipy.fft.fft(sums, n=length, axis=-1)[..., kept]


def _correlations(signals: _Signals, frequency_hz: Array, longest: int, rate_hz: float) -> Array:
    """Cross-correlations (S, R, R, 2 · longest + 1) of all pairs, i over j ≤ i, with frequency offsets taken off.

    Windows overlap the less the greater the lag, and filters lack what lies beyond their ends. So that neither pulls
    the peaks, the windows fade, and a correlation is divided by the root of the energy that each signal has under the
    fades of both: by Cauchy and Schwarz it is greatest at the delay then, however the envelope runs.
    """
    scenes, receivers, num_time = signals.voltage.shape
    length = signals.share.shape[-1]
    window = _window(signals.duration, num_time)
    faded = _spectrum(signals.voltage * phasor(-2 * frequency_hz / rate_hz, num_time) * window, length)
    energy = _spectrum(np.abs(signals.voltage) ** 2 * window, length)
    of_window = _spectrum(window, length)
    level = np.empty((scenes, receivers, 2 * longest + 1))
    for i in range(receivers):
        left = _at_lags(energy[:, i] * of_window.conj(), longest).real
        whole = left[:, [longest]]
        level[:, i] = np.sqrt(whole / np.maximum(left, whole / signals.duration + 1e-300))
    table = np.zeros((scenes, receivers, receivers, 2 * longest + 1), dtype=complex)
    for i in range(receivers):
        for j in range(i + 1):
            table[:, i, j] = _at_lags(faded[:, i] * faded[:, j].conj(), longest) * level[:, i] * level[:, j, ::-1]
    return table


def _window(duration: int, num_time: int) -> Array:
    """Window (num_time,) at half of the sample rate that rises and falls within _FADE of ``duration`` samples."""
    time = 2 * np.arange(num_time) + 0.5
    edge = np.minimum(time, duration - time) / min(_FADE, duration / 4)
    return np.sin(np.pi / 2 * edge.clip(0, 1)) ** 2


def _spectrum(voltage: Array, length: int) -> Array:
    """Spectrum (..., length) of voltages (..., K), ascending."""
    return np.fft.fftshift(scipy.fft.fft(voltage, n=length, axis=-1), axes=-1)


def _at_lags(product: Array, longest: int) -> Array:
    """Correlation (S, 2 · longest + 1) at lags of one sample of which the spectrum (S, L) is given at half the rate."""
    length = product.shape[-1]
    padded = np.zeros((len(product), 2 * length), dtype=complex)
    padded[:, length // 2 : length // 2 + length] = product
    return 2 * scipy.fft.ifft(np.fft.ifftshift(padded, axes=-1), axis=-1)[:, np.arange(-longest, longest + 1)]


@njit(cache=True)
def _eigenvalues(table: Array, delay: Array, farrow: Array) -> Array:
    """Largest eigenvalues (S, G) of the Gram matrices of signals from which delays are taken.

    Parameters
    ----------
    table : (S, R, R, L) complex128
        Correlations of receiver i over j ≤ i, at lags of one sample around 0.
    delay : (S, G, R)
        In samples.
    farrow : (D, TAPS)
        As _FARROW.
    """
    scenes, positions, size = delay.shape
    middle = (table.shape[3] - 1) // 2
    largest = np.empty((scenes, positions))
    taps = np.empty(TAPS)
    matrix = np.empty((size, size), np.complex128)
    vectors = np.empty((2, size), np.complex128)
    for scene in range(scenes):
        strongest = 0
        for i in range(size):
            matrix[i, i] = table[scene, i, i, middle].real
            if matrix[i, i].real > matrix[strongest, strongest].real:
                strongest = i
        for position in range(positions):
            for i in range(size):
                for j in range(i):
                    lag = delay[scene, position, i] - delay[scene, position, j]
                    matrix[i, j] = _between(table[scene, i, j], middle + lag, farrow, taps)
                    matrix[j, i] = matrix[i, j].conjugate()
            vectors[0] = matrix[:, strongest]
            largest[scene, position] = _power_iteration(matrix, vectors[0], vectors[1])
    return largest


@njit(cache=True)
def _between(values: Array, place: float, farrow: Array, taps: Array) -> complex:
    """Value between those of a table (L,), at its ends where the place is beyond them; fills ``taps`` (TAPS,)."""
    place = min(max(place, LEAD), len(values) - TAPS + LEAD - 1.0)
    first = int(place) - LEAD
    fraction = place - int(place)
    taps[:] = farrow[-1]
    for degree in range(len(farrow) - 2, -1, -1):
        for tap in range(TAPS):
            taps[tap] = taps[tap] * fraction + farrow[degree, tap]
    value = 0j
    for tap in range(TAPS):
        value += taps[tap] * values[first + tap]
    return value


@njit(cache=True)
def _power_iteration(matrix: Array, vector: Array, image: Array) -> float:
    """Largest eigenvalue of a Hermitian matrix (R, R); turns ``vector`` (R,) into its eigenvector, by way of ``image``.

    The Rayleigh quotient is exact to the square of the eigenvector's error: Golub and Van Loan, Matrix Computations,
    4th ed., section 8.2.1.
    """
    before, value = -1.0, 0.0
    for _ in range(1000):
        norm = 0.0
        for i in range(len(vector)):
            norm += vector[i].real ** 2 + vector[i].imag ** 2
        if norm == 0:
            break
        value = 0.0
        for i in range(len(vector)):
            total = 0j
            for j in range(len(vector)):
                total += matrix[i, j] * vector[j]
            image[i] = total / norm**0.5
            value += (total * vector[i].conjugate()).real / norm
        vector[:] = image
        if abs(value - before) <= 1e-13 * value:
            break
        before = value
    return value


def _climb(
    observed: Observations, table: Array, start: Array, sigma: Array, rate_hz: float
) -> tuple[Array, Array, Array, Array]:
    """Positions that are most likely with the most likely delay errors, by parabolas in the delays.

    Parameters
    ----------
    start : (S, K, 2) m
        On the tangent plane.
    sigma : (1, R)
        Standard deviation of the delay errors, in samples.

    Returns
    -------
    latitude, longitude : (S, K) degrees
    covariance : (S, K, 2, 2) m²
        From the curvature at the summit.
    value : (S, K)
        Log likelihood with the log density of the delay errors; −∞ where no summit was reached.
    """
    scenes, count, _ = start.shape
    both = sigma[..., None] * sigma[:, None]  # (1, R, R)
    latitude, longitude = (degrees.ravel() for degrees in observations.from_tangent_plane(observed, start))
    observed = observed.repeat(count)
    delay, _ = _delays_and_gradient(observed, latitude, longitude, rate_hz)
    error = np.zeros_like(delay)
    for _ in range(_PARABOLAS):
        _, slope, curvature = _parabola(table, delay + error)
        # With −½ xᵀHx + gᵀx the log likelihood of delays x from here, and −½ eᵀPe the log density of their errors e,
        # the best errors at a position are (H + P)⁻¹(g + H(e₀ − x)). They leave −½ xᵀWx + bᵀx with
        # W = P − P(H + P)⁻¹P and b = P(H + P)⁻¹(g + He₀).
        # In units of the errors' standard deviation, P is 1; where H is no maximum's, that part of it is left out.
        eigenvalue, vector = np.linalg.eigh(curvature * both)
        eigenvalue = np.maximum(eigenvalue, 0.0)[:, None]
        across = vector.swapaxes(1, 2)
        curvature = (vector * eigenvalue) @ across / both
        inverse = (vector / (1 + eigenvalue)) @ across * both  # (H + P)⁻¹
        weight = (vector * eigenvalue / (1 + eigenvalue)) @ across / both
        pull = slope + np.einsum("srq,sq->sr", curvature, error)
        origin = delay
        latitude, longitude, information, moved_m = _top(
            observed, weight, np.einsum("srq,sq->sr", inverse, pull) / sigma**2, latitude, longitude, rate_hz
        )
        delay, _ = _delays_and_gradient(observed, latitude, longitude, rate_hz)
        left = pull - np.einsum("srq,sq->sr", curvature, delay - origin)
        error = np.einsum("srq,sq->sr", inverse, left)
    likelihood, _, _ = _parabola(table, delay + error)
    covariance = _solve(information, np.broadcast_to(np.eye(2), information.shape))
    settled = moved_m < 0.01 * np.sqrt(np.trace(covariance, axis1=1, axis2=2))
    value = np.where(settled, likelihood - (error**2 / sigma**2).sum(axis=1) / 2, -np.inf)
    latitude, longitude, value = (part.reshape(scenes, count) for part in (latitude, longitude, value))
    return latitude, longitude, covariance.reshape(scenes, count, 2, 2), value


def _top(
    observed: Observations, weight: Array, pull: Array, latitude: Array, longitude: Array, rate_hz: float
) -> tuple[Array, Array, Array, Array]:
    """Climb the parabola −½ xᵀWx + bᵀx of delays x from those of the start, by Levenberg-Marquardt steps.

    Returns
    -------
    latitude, longitude : (S,) degrees
    information : (S, 2, 2) per m²
    moved : (S,) m
        From the start.
    """
    origin, gradient = _delays_and_gradient(observed, latitude, longitude, rate_hz)
    moved = np.zeros((len(latitude), 2))
    offset, value = np.zeros_like(origin), np.zeros(len(origin))
    damping, step_m = np.full(len(origin), 1e-3), np.full(len(origin), np.inf)
    for _ in range(_STEPS):
        uphill = np.einsum("srk,sr->sk", gradient, pull - np.einsum("srq,sq->sr", weight, offset))
        information = gradient.swapaxes(1, 2) @ weight @ gradient
        step = _solve(information * (1 + damping[:, None, None] * np.eye(2)), uphill[..., None])[..., 0]
        trial = geodesy.displace(latitude, longitude, step[:, 0], step[:, 1])
        trial = trial[0].clip(-89.9, 89.9), trial[1]
        delay, slope = _delays_and_gradient(observed, *trial, rate_hz)
        found = delay - origin
        height = (pull * found).sum(axis=1) - np.einsum("sr,srq,sq->s", found, weight, found) / 2
        better = height >= value
        step_m = np.where(better, np.hypot(step[:, 0], step[:, 1]), step_m)
        damping = np.where(better, damping / 5, damping * 5).clip(1e-9, 1e9)
        moved += np.where(better[:, None], step, 0.0)
        latitude, longitude, offset, gradient, value = (
            np.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in zip(
                (*trial, found, slope, height), (latitude, longitude, offset, gradient, value), strict=True
            )
        )
        if (step_m < 1e-4).all():
            break
    information = gradient.swapaxes(1, 2) @ weight @ gradient
    return latitude, longitude, information, np.fmax(np.hypot(moved[:, 0], moved[:, 1]), step_m)


def _delays_and_gradient(
    observed: Observations, latitude: Array, longitude: Array, rate_hz: float
) -> tuple[Array, Array]:
    """Delays (S, R), and their gradient (S, R, 2) along east and north in 1/m, in samples; 0 where no receiver is."""
    distance, gradient = observations.distances(observed, latitude, longitude)
    scale = rate_hz / SPEED_OF_LIGHT
    return np.nan_to_num(distance) * scale, np.nan_to_num(gradient) * scale


def _solve(matrix: Array, right: Array) -> Array:
    """Solve (S, 2, 2) systems; directions of no information, at noise alone, get some that is next to none."""
    least = 1e-16 + 1e-12 * np.trace(matrix, axis1=1, axis2=2)
    return np.linalg.solve(matrix + least[:, None, None] * np.eye(2), right)


def _parabola(table: Array, delay: Array) -> tuple[Array, Array, Array]:
    """Largest eigenvalue (S·K,), its slope (S·K, R) and negative curvature (S·K, R, R) in delays (S·K, R).

    By differences.
    """
    size = delay.shape[1]
    first, second = np.triu_indices(size, 1)
    unit = np.eye(size)
    moves = np.concatenate([np.zeros((1, size)), unit, -unit, unit[first] + unit[second], -unit[first] - unit[second]])
    moved = (delay[:, None] + _DIFFERENCE * moves).reshape(len(table), -1, size)
    values = _eigenvalues(table, moved, _FARROW).reshape(len(delay), -1)
    middle, up, down, both_up, both_down = np.split(values, np.cumsum([1, size, size, len(first)]), axis=1)
    second_difference = up + down - 2 * middle  # (S, R)
    curvature = np.einsum("sr,rq->srq", second_difference, unit)
    mixed = both_up + both_down - 2 * middle - second_difference[:, first] - second_difference[:, second]
    curvature[:, first, second] = curvature[:, second, first] = mixed / 2
    return middle[:, 0], (up - down) / (2 * _DIFFERENCE), -curvature / _DIFFERENCE**2
