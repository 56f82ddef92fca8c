"""Pictures of the clocks of a recording: where they are, and what they do to delays."""

import holoviews as hv
import numpy as np
import pytest
import xarray as xr
from pictures import axis_labels, columns, layers

import heimdall_lab as hl
from heimdall_lab import plots
from heimdall_lab.datasets import schema

PAIR = ("Torino", "Genova")


@pytest.fixture(scope="module")
def recorded() -> xr.Dataset:
    """Two recordings of five emissions, two of each references, with IQ."""
    recording = {"emissions": 5, "references": 2, "gap_s": 10.0}
    signal = {"duration_s": 0.05, "voice_ratio": 1.0, "tone_ratio": 0.0, "dual_tone_ratio": 0.0}
    config = hl.preset("websdr_reference", num_samples=10, seed=2, recording=recording, signal=signal)
    return hl.generate(config, progress=False)


def test_clocks_are_drawn_from_their_first_offset_with_references_marked(recorded: xr.Dataset) -> None:
    emissions = recorded.isel(sample=slice(5, 10))
    picture = plots.clock_walks(recorded, 1)
    curves = layers(picture, hv.Curve)
    assert len(curves) == int(emissions.receiver_present.values.all(axis=0).sum())
    name, offset_s = "Torino", emissions.clock_offset.values[:, emissions.receiver_name.values == "Torino"][:, 0]
    (curve,) = [each for each in curves if each.label.startswith(f"{name},")]
    assert curve.label == f"{name}, {1e3 * offset_s[0]:+.1f} ms".replace("-", "−")
    np.testing.assert_allclose(columns(curve), np.stack([emissions.recording_time, 1e6 * (offset_s - offset_s[0])], -1))
    at = {len(each): each.opts.get("style").kwargs["marker"] for each in layers(picture, hv.Scatter)}
    assert at == {2: "square", 3: "circle"}
    assert schema.references(emissions).sum() == 2
    assert axis_labels(picture) == {"time in the recording (s)", "clock offset since the first emission (µs)"}


def test_delays_of_a_pair_are_clocks_and_paths(recorded: xr.Dataset) -> None:
    """What is measured without the clocks' difference is where the transmitter stands."""
    with_clocks, without = plots.pair_delays(recorded, 1, PAIR)
    emissions = recorded.isel(sample=slice(5, 10))
    one, other = (emissions.isel(receiver=emissions.receiver_name.values.tolist().index(name)) for name in PAIR)
    (clocks,) = layers(with_clocks, hv.Curve, "clocks")
    np.testing.assert_allclose(columns(clocks)[:, 1], 1e3 * (one.clock_offset - other.clock_offset))
    paths, measured = (columns(layers(without, hv.Scatter, label)[0])[:, 1] for label in ("paths", "measured"))
    np.testing.assert_allclose(paths, 1e6 * (one.propagation_delay - other.propagation_delay))
    heard = np.isfinite(measured)
    assert heard.sum() >= 3
    assert np.abs(measured - paths)[heard].max() < 20  # µs, of hundreds
    assert axis_labels(with_clocks + without) == {"time in the recording (s)", "delay (ms)", "delay (µs)"}


@pytest.mark.slow
def test_errors_are_drawn_over_the_number_of_unknown_transmitters_beside_the_bound(recorded: xr.Dataset) -> None:
    references = schema.references(recorded)
    blind = recorded.isel(sample=~references)
    boards = {"blind": {3: hl.compare(blind, ["tdoa_joint"])}, "with two": {3: hl.compare(recorded, ["tdoa_joint"])}}
    picture = plots.errors_by_emissions(boards)
    for label, by_number in boards.items():
        board = by_number[3]
        (found,) = layers(picture, hv.Scatter, label)
        np.testing.assert_allclose(columns(found), [[3, board.error.median()]])
        (bound,) = layers(picture, hv.Curve, f"{label}, at the bound")
        covariance = board.crlb_covariance.values[np.isfinite(board.crlb_rmse.values)]
        drawn = np.random.default_rng(1).standard_normal((20_000, 2))
        drawn = np.einsum("sij,nj->nsi", np.linalg.cholesky(covariance), drawn)
        assert columns(bound)[0] == pytest.approx([3, np.median(np.hypot(drawn[..., 0], drawn[..., 1]))], rel=0.03)
    assert axis_labels(picture) == {"unknown transmitters in a recording", "median error (m)"}
    with pytest.raises(ValueError, match=r"^boards: one is of 2 methods; give boards of one method each$"):
        plots.errors_by_emissions({"blind": {3: hl.compare(blind, ["tdoa_joint", "rss_ml"])}})


def test_what_is_not_there_is_named(recorded: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"^recording: 2 is not in the dataset; choose one of 0 … 1$"):
        plots.clock_walks(recorded, 2)
    with pytest.raises(ValueError, match=r"^receivers: 'Roma' is unknown; choose two of Aquila di Giaveno, "):
        plots.pair_delays(recorded, 0, ("Torino", "Roma"))
    alone = recorded.drop_vars(["recording", "recording_time"])
    with pytest.raises(ValueError, match=r"^recording: is not in the dataset; generate one with recording.emissions"):
        plots.clock_walks(alone, 0)
