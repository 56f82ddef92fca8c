"""Pictures of what the receivers recorded and of how it correlates."""

import math
from typing import Any

import holoviews as hv
import numpy as np
import scipy.signal
import xarray as xr

from heimdall_lab.core.text import literal, microseconds_text, quoted
from heimdall_lab.core.units import linear_to_db
from heimdall_lab.datasets import schema
from heimdall_lab.plots.style import FONT, INK, load_measured_scene, load_scene, plain_title, receiver_names
from heimdall_lab.signals import correlation, spectra

_SEGMENT = 256  # IQ samples of one spectrum
_MAX_FRAMES = 120
_MAX_BINS = 400
_MAX_POINTS = 2000
_LEAST_MW = 1e-30  # digital silence is drawn at the level of this power
_FREQUENCY = hv.Dimension("frequency_khz", label="frequency", unit="kHz")
_DENSITY = hv.Dimension("density", label="power density", unit="dBm/Hz")
_PANEL_OPTIONS: dict[str, Any] = {
    "active_tools": ["pan"],
    "fontsize": FONT | {"title": "9pt", "labels": "9pt", "ticks": "8pt"},
}


def cross_correlations(dataset: xr.Dataset, sample: int) -> hv.Layout:
    """Draw the cross-correlation of each receiver with the reference around its peak, in a panel each.

    The measured frequency difference is removed and the estimator's spectral weight applied, so the peak is where the
    measured delay is. Magnitude 1 would be a perfect copy of the reference.

    Parameters
    ----------
    dataset : xr.Dataset
        With IQ. Where ``propagation_delay``, ``excess_delay`` and ``clock_offset`` are known, their sum's difference
        against the reference is drawn as the true delay.
    sample : int
        Label of the scene along ``sample``.

    Raises
    ------
    ValueError
        If the sample is not in the dataset.
    """
    scene = load_measured_scene(dataset, sample)
    reference = int(scene.reference_receiver)
    arrival_s = (scene.propagation_delay + scene.excess_delay + scene.clock_offset).values
    others = [int(r) for r in np.flatnonzero(scene.receiver_present.values) if r != reference]
    voltage, rate_hz = schema.iq(scene).transpose("receiver", "time").values, scene.attrs["sample_rate_hz"]
    spectrum = spectra.power_spectrum(voltage[reference], rate_hz)
    weight = spectra.wiener_weight(spectrum, spectra.noise_density(spectrum))
    lobe_s = 0.5 / spectra.rms_bandwidth_hz(spectrum.frequency_hz, weight * spectrum.density)
    lobe_s = float(lobe_s) if np.isfinite(lobe_s) else 20 / rate_hz
    panels = []
    for index in others:
        measured_s, true_s = float(scene.tdoa_s[index]), float(arrival_s[index] - arrival_s[reference])
        half_s = max(1.5 * lobe_s, 1.25 * np.nan_to_num(abs(true_s - measured_s)))
        lag_s = np.nan_to_num(measured_s) + np.linspace(-half_s, half_s, 401)
        value = correlation.cross_correlation(
            voltage[[reference, index]], float(scene.fdoa_hz[index]), weight, rate_hz, lag_s
        )
        panels.append(_correlation_panel(str(scene.receiver_name.values[index]), lag_s, value, measured_s, true_s))
    legend = "dashed: measured delay" + ("; broad: true delay" if np.isfinite(arrival_s[others]).any() else "")
    title = f"Sample {sample}: cross-correlation with {scene.receiver_name.values[reference]} ({legend})"
    return _layout(panels, 3, title, shared_axes=False)


def spectrograms(dataset: xr.Dataset, sample: int) -> hv.Layout:
    """Draw power density over time and frequency for each present receiver, on one colour scale.

    It is in dBm per Hz, with frequencies in kHz from the centre; long recordings are averaged to 120 columns.

    Parameters
    ----------
    dataset : xr.Dataset
        With IQ.
    sample : int
        Label of the scene along ``sample``.

    Raises
    ------
    ValueError
        If the sample is not in the dataset.
    """
    scene = load_scene(dataset, sample)
    voltage, unit, scale = _present_voltage(scene)
    at, frequency_khz, level = _power_densities(voltage, scene.attrs["sample_rate_hz"])
    colours = tuple(float(v) for v in np.percentile(level, [2, 99.9]))
    axes = [_time_axis(unit), _FREQUENCY]
    panels, columns = [], min(4, len(level))
    for row, name in enumerate(map(plain_title, receiver_names(scene))):
        image = hv.Image((at * scale, frequency_khz, level[row]), axes, _DENSITY, rtol=1e-3)
        options = _panel_axes(row, len(level), columns) | {
            "frame_width": 185,
            "frame_height": 150,
            "title": name,
        }
        bar = {"colorbar": row == columns - 1, "clabel": "dBm/Hz"}  # one for all: the scale is shared
        panels.append(image.opts(cmap="viridis", clim=colours, **bar, **options, **_PANEL_OPTIONS, backend="bokeh"))
    return _layout(panels, columns, f"Sample {sample}: spectrograms")


def waterfall(dataset: xr.Dataset, sample: int, receiver: str) -> hv.Image:
    """Draw the power density of one receiver as its operator sees it: frequency across, time running down.

    ValueError if there is no sample of that label, or the receiver is not present in it.
    """
    scene = load_scene(dataset, sample)
    voltage, unit, scale = _present_voltage(scene)
    row = _receiver_row(scene, receiver)
    at, frequency_khz, level = _power_densities(voltage[[row]], scene.attrs["sample_rate_hz"])
    image = hv.Image((frequency_khz, at * scale, level[0].T), [_FREQUENCY, _time_axis(unit)], _DENSITY, rtol=1e-3)
    colours = tuple(float(v) for v in np.percentile(level, [2, 99.9]))
    options = {"frame_width": 400, "frame_height": 320, "invert_yaxis": True, "colorbar": True, "clabel": "dBm/Hz"}
    title = plain_title(f"Sample {sample}, {receiver}: waterfall")
    return image.opts(cmap="viridis", clim=colours, title=title, **options, **_PANEL_OPTIONS, backend="bokeh")


def constellation(dataset: xr.Dataset, sample: int, receiver: str) -> hv.Points:
    """Draw the IQ samples of one receiver in the complex plane, in units of their rms amplitude.

    Frequency modulation is a ring, noise alone a cloud. Of long recordings evenly spaced IQ samples are drawn.
    ValueError if there is no sample of that label, or the receiver is not present in it.
    """
    scene = load_scene(dataset, sample)
    voltage = _present_voltage(scene)[0][_receiver_row(scene, receiver)]
    rms = max(float(np.sqrt(np.mean(np.abs(voltage) ** 2))), _LEAST_MW)
    shown = voltage[:: -(-len(voltage) // _MAX_POINTS)] / rms
    axes = [hv.Dimension("in_phase", label="I over rms amplitude"), hv.Dimension("quadrature", label="Q over rms")]
    reach = 1.1 * float(np.abs(shown).max()) if rms > _LEAST_MW else 1.0
    options = {"frame_width": 320, "frame_height": 320, "xlim": (-reach, reach), "ylim": (-reach, reach)}
    points = hv.Points((shown.real, shown.imag), axes).opts(
        size=3, alpha=0.5, color="#0072B2", show_grid=True, backend="bokeh"
    )
    title = plain_title(f"Sample {sample}, {receiver}: constellation")
    return points.opts(title=title, **options, **_PANEL_OPTIONS, backend="bokeh")


def envelopes(dataset: xr.Dataset, sample: int) -> hv.Layout:
    """Draw the power in each present receiver over time: its mean, and the band that holds 90 % of the IQ samples.

    Panels below each other, in dBm, are reduced to at most 400 points in time.

    Parameters
    ----------
    dataset : xr.Dataset
        With IQ.
    sample : int
        Label of the scene along ``sample``.

    Raises
    ------
    ValueError
        If the sample is not in the dataset.
    """
    scene = load_scene(dataset, sample)
    voltage, unit, scale = _present_voltage(scene)
    group = -(-voltage.shape[-1] // _MAX_BINS)
    bins = voltage.shape[-1] // group
    power = np.abs(voltage[:, : bins * group].reshape(len(voltage), bins, group)) ** 2
    statistics = [np.percentile(power, 5, axis=-1), power.mean(axis=-1), np.percentile(power, 95, axis=-1)]
    low, middle, high = (linear_to_db(np.maximum(values, _LEAST_MW)) for values in statistics)
    time = _time_axis(unit)
    level = hv.Dimension("power", label="power", unit="dBm")
    at = (np.arange(bins) + 0.5) * group / scene.attrs["sample_rate_hz"] * scale
    panels = []
    for row, name in enumerate(map(plain_title, receiver_names(scene))):
        band = hv.Area((at, low[row], high[row]), time, [level, hv.Dimension("power_95", unit="dBm")])
        curve = hv.Curve((at, middle[row]), time, level).opts(color="#08306b", line_width=1, backend="bokeh")
        band = band.opts(color="#9ecae1", line_alpha=0, backend="bokeh")
        options = _panel_axes(row, len(power), 1) | {
            "frame_width": 820,
            "frame_height": 70,
            "title": name,
            "yticks": 4,
        }
        panels.append((band * curve).opts(**options, **_PANEL_OPTIONS, show_grid=True, backend="bokeh"))
    return _layout(panels, 1, f"Sample {sample}: received power over time")


def _correlation_panel(name: str, lag_s: np.ndarray, value: np.ndarray, measured_s: float, true_s: float) -> hv.Overlay:
    """One receiver's correlation with its delays as vertical lines; the true one is broad, so that both show."""
    lag, magnitude = hv.Dimension("lag_us", label="lag", unit="µs"), hv.Dimension("magnitude", label="magnitude")
    layers = [hv.Curve((lag_s * 1e6, value), lag, magnitude).opts(color=INK, backend="bokeh")]
    text = f"{plain_title(name)}: {microseconds_text(measured_s) if math.isfinite(measured_s) else 'no peak'}"
    if math.isfinite(true_s):
        truth = hv.VLine(true_s * 1e6, label="true delay")
        layers.append(truth.opts(color="#E69F00", line_width=5, alpha=0.7, backend="bokeh"))
    if math.isfinite(measured_s):
        measured = hv.VLine(measured_s * 1e6, label="measured delay")
        layers.append(measured.opts(color="#0072B2", line_width=1.5, line_dash="dashed", backend="bokeh"))
    if math.isfinite(measured_s - true_s):
        text += f", off by {microseconds_text(measured_s - true_s)}"
    options = {
        "frame_width": 250,
        "frame_height": 150,
        "title": text,
        "ylim": (0, 1.05),
        "show_legend": False,
    }
    return hv.Overlay(layers).opts(**options, **_PANEL_OPTIONS, show_grid=True, backend="bokeh")


def _present_voltage(scene: xr.Dataset) -> tuple[np.ndarray, str, float]:
    """IQ of the present receivers (P, N) in √mW, and the unit of time to show it in with its number per second."""
    voltage = schema.iq(scene).transpose("receiver", "time").values[scene.receiver_present.values]
    duration_s = voltage.shape[-1] / scene.attrs["sample_rate_hz"]
    return voltage, *(("s", 1.0) if duration_s >= 1 else ("ms", 1e3))


def _time_axis(unit: str) -> hv.Dimension:
    return hv.Dimension(f"time_{unit}", label="time", unit=unit)


def _receiver_row(scene: xr.Dataset, receiver: str) -> int:
    """Number of a receiver among the present ones."""
    names = receiver_names(scene)
    if receiver not in names:
        raise ValueError(f"receiver: {quoted(receiver)} is not in this sample; choose one of {', '.join(names)}")
    return names.index(receiver)


def _power_densities(voltage: np.ndarray, sample_rate_hz: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times (T,) s, frequencies (F,) kHz and power densities (R, F, T) dBm/Hz of receivers (R, N)."""
    segment = min(_SEGMENT, voltage.shape[-1])
    frequency_hz, time_s, density = scipy.signal.spectrogram(
        voltage,
        sample_rate_hz,
        nperseg=segment,
        noverlap=segment // 2,
        detrend=False,
        return_onesided=False,
    )
    group = -(-len(time_s) // _MAX_FRAMES)
    frames = len(time_s) // group
    time_s, density = (a[..., : frames * group].reshape(*a.shape[:-1], frames, group) for a in (time_s, density))
    order = np.argsort(frequency_hz)
    level = linear_to_db(np.maximum(density.mean(axis=-1)[:, order], _LEAST_MW)).astype(np.float32)
    return time_s.mean(axis=-1), frequency_hz[order] / 1e3, level


def _panel_axes(index: int, count: int, columns: int) -> dict[str, Any]:
    """Draw the axes, which all panels share, at the left and at the bottom of the grid only."""
    left = {} if index % columns == 0 else {"yaxis": None}
    return left if index + columns >= count else left | {"xaxis": None}


def _layout(panels: list[hv.Element], columns: int, title: str, *, shared_axes: bool = True) -> hv.Layout:
    """Arrange pictures below a title, which HoloViews takes for HTML."""
    return (
        hv.Layout(panels)
        .cols(columns)
        .opts(title=literal(title), shared_axes=shared_axes, fontsize={"title": "11pt"}, backend="bokeh")
    )
