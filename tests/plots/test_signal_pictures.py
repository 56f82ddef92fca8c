"""Pictures of signals: correlations peak where they were measured, spectrograms and envelopes hold the power."""

import holoviews as hv
import numpy as np
import pytest
import xarray as xr
from bokeh.models import Div, Title
from pictures import axis_labels, columns, layers, without_truth

import heimdall_lab as hl
from heimdall_lab import plots


def test_correlation_peaks_where_measured_and_truth_is_drawn(dataset: xr.Dataset, measured: xr.Dataset) -> None:
    panels = plots.cross_correlations(dataset.assign(measured), 3)
    scene, pairs = dataset.sel(sample=3), measured.sel(sample=3)
    reference = pairs.reference_receiver.item()
    arrival = (scene.propagation_delay + scene.excess_delay + scene.clock_offset).values
    others = [r for r in range(7) if r != reference]
    assert len(panels) == len(others)
    for panel, receiver in zip(panels, others, strict=True):
        lines = {line.label: line.data for line in panel if type(line) is hv.VLine}
        assert lines["true delay"] == pytest.approx((arrival[receiver] - arrival[reference]) * 1e6)
        assert lines["measured delay"] == pytest.approx(pairs.tdoa_s.values[receiver] * 1e6)
        (curve,) = layers(panel, hv.Curve)
        lag, magnitude = columns(curve).T
        step = lag[1] - lag[0]
        assert abs(lag[magnitude.argmax()] - lines["measured delay"]) <= max(step, 1.0)
        assert magnitude.max() == pytest.approx(np.sqrt(pairs.coherence.values[receiver]), abs=0.02)


def test_correlation_without_truth_has_only_the_measured_line(dataset: xr.Dataset, measured: xr.Dataset) -> None:
    for panel in plots.cross_correlations(without_truth(dataset).assign(measured), 0):
        assert [line.label for line in panel if type(line) is hv.VLine] == ["measured delay"]


def test_correlation_without_a_peak_says_so(dataset: xr.Dataset, measured: xr.Dataset) -> None:
    lost = measured.assign(tdoa_s=measured.tdoa_s.where(measured.tdoa_s == 0))
    for panel in plots.cross_correlations(dataset.assign(lost), 0):
        assert [line.label for line in panel if type(line) is hv.VLine] == ["true delay"]
        assert panel.opts.get("plot").kwargs["title"].endswith("no peak")


def test_spectrogram_holds_the_power(dataset: xr.Dataset) -> None:
    panels = plots.spectrograms(dataset, 1)
    power = (np.abs(hl.iq(dataset).sel(sample=1).values) ** 2).mean(axis=-1)
    for image, expected in zip(panels, power, strict=True):
        frequency = image.dimension_values("frequency_khz", expanded=False)
        density = 10 ** (image.dimension_values("density", flat=False) / 10)
        total = density.mean(axis=1).sum() * (frequency[1] - frequency[0]) * 1e3
        assert total == pytest.approx(expected, rel=0.1)


def test_long_recordings_make_small_pictures(dataset: xr.Dataset) -> None:
    scene = dataset.isel(sample=[0], receiver=slice(0, 3))
    long = xr.concat(
        [scene] * 20, dim="time", data_vars="minimal", coords="minimal", compat="override", join="override"
    )
    long = long.assign_coords(time=np.arange(long.sizes["time"]) / long.attrs["sample_rate_hz"])
    assert all(len(image.dimension_values("time_s", expanded=False)) <= 120 for image in plots.spectrograms(long, 0))
    for panel in plots.envelopes(long, 0):
        assert len(panel.Curve.I) <= 400


def test_envelope_is_the_received_power(dataset: xr.Dataset) -> None:
    power = (np.abs(hl.iq(dataset).sel(sample=0).values) ** 2).mean(axis=-1)
    for panel, expected in zip(plots.envelopes(dataset, 0), power, strict=True):
        mean = (10 ** (panel.Curve.I.dimension_values("power") / 10)).mean()
        assert mean == pytest.approx(expected, rel=1e-3)


def test_axes_of_signals_have_units(dataset: xr.Dataset, measured: xr.Dataset) -> None:
    assert axis_labels(plots.cross_correlations(dataset.assign(measured), 0)) == {"lag (µs)", "magnitude"}
    assert axis_labels(plots.spectrograms(dataset, 0)) == {"time (ms)", "frequency (kHz)"}
    assert axis_labels(plots.envelopes(dataset, 0)) == {"time (ms)", "power (dBm)"}


def test_names_are_text_in_titles_whatever_they_hold(dataset: xr.Dataset, measured: xr.Dataset) -> None:
    """HoloViews fills in what is in braces, and takes the titles of several pictures for HTML."""
    hostile = "{label.__class__}<img src=x onerror=alert(1)>"
    names = dataset.receiver_name.copy(data=[f"{number}{hostile}" for number in range(7)])
    named = dataset.assign_coords(receiver_name=names).assign(measured)
    renderer = hv.renderer("bokeh")
    waterfall = renderer.get_plot(plots.waterfall(named, 0, f"2{hostile}")).state
    assert waterfall.title.text == f"Sample 0, 2{hostile}: waterfall"
    for draw in (plots.cross_correlations, plots.spectrograms, plots.envelopes):
        layout = renderer.get_plot(draw(named, 0)).state
        titles = [part.text for part in layout.select({"type": Div})]
        assert len(titles) == 1
        assert "<img" not in titles[0]
        panels = [part.text for part in layout.select({"type": Title}) if part.text]
        assert all(hostile in text for text in panels)
        assert len(panels) >= 6
