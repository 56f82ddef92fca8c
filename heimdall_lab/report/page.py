"""One HTML file that shows what was simulated or recorded, and how well each method located it.

`page.html.j2` is the page; this module says and draws what stands on it.
"""

import json
import re
from pathlib import Path
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr
from bokeh.core.types import ID
from bokeh.embed import json_item
from bokeh.models import Plot, Toolbar
from bokeh.resources import Resources
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from heimdall_lab import plots
from heimdall_lab.core.config import Config
from heimdall_lab.core.files import Write, write_files
from heimdall_lab.core.text import length_text
from heimdall_lab.datasets import schema
from heimdall_lab.localization import stations
from heimdall_lab.localization.delay_law import LAW_NAMES, laws_of
from heimdall_lab.localization.leaderboard import MEANINGS, cautions, leaderboard_cells, leaderboard_table, notes
from heimdall_lab.localization.sentences import JOINED, budget_sentence, remedy_sentence, status_sentence
from heimdall_lab.localization.tables import budget_table

_DIFFRACTION = {
    "none": "",
    "smooth_earth": "diffraction over a smooth Earth, ",
    "terrain": "diffraction over terrain, ",
}
_CLOCKS = {
    "gpsdo": "disciplined by GPS (standard deviation 50 ns)",
    "gps_stamped": "stamped by GPS (standard deviation 200 ns, of every window anew)",
    "ntp": "set over the network (NTP, standard deviation 1 ms)",
    "none": "not synchronised (uniform within ±10 ms)",
}
_WAVEFORMS = {"voice": "FM voice", "tone": "single tone", "dual_tone": "DTMF dual tone", "noise": "band-limited noise"}


def write_report(dataset: xr.Dataset, board: xr.Dataset, path: str | Path) -> None:
    """Write one self-contained HTML file, which needs no network, on a dataset and its leaderboard.

    Parameters
    ----------
    dataset : xr.Dataset
        Of the contract, with truth; signals are drawn where it holds IQ.
    board : xr.Dataset
        Result of `leaderboard.compare` for the dataset.
    path : path
        The file; it appears complete or not at all, and the same inputs give the same bytes.

    Raises
    ------
    ValueError
        If the dataset breaks the contract, or the file cannot be written.
    """
    write_files(output(dataset, board, path), "report")


def output(dataset: xr.Dataset, board: xr.Dataset, path: str | Path) -> dict[Path, Write]:
    """The file of `write_report`, and how it is made, for `files.write_files` to write it together with others."""
    html = _render(schema.check(dataset), board)
    return {Path(path): lambda temporary: temporary.write_text(html, encoding="utf-8")}


def _render(dataset: xr.Dataset, board: xr.Dataset) -> str:
    method = _best_method(board)
    sample = _median_sample(board, method)
    fixes = board.sel({"method": method}).assign_attrs(method=method)
    pictures = _pictures(dataset, board, fixes, sample)
    table = leaderboard_table(board)
    cells = leaderboard_cells(table)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html.j2").render(
        title=f"Locating a radio transmitter with {int(dataset.receiver_present.any('sample').sum())} receivers",
        bokeh="\n".join(Resources(mode="inline", components=["bokeh", "bokeh-widgets"]).js_raw),
        sample_count=int(board.error.notnull().any("method").sum()),
        simulated="config" in dataset.attrs,
        facts=_facts(dataset),
        columns=["method", *cells.columns],
        rows=list(cells.itertuples()),
        colours={name: colour for name, (colour, _) in plots.method_styles(map(str, board.method.values)).items()},
        notes=notes(board),
        cautions=cautions(table),
        meanings={name: MEANINGS[name] for name in cells.columns},
        sample=sample,
        method=method,
        error=length_text(float(board.error.sel({"method": method, "sample": sample}))),
        bounds=_bounds(board, sample),
        has_bounds=any(bool(board[f"crlb_rmse{suffix}"].notnull().any()) for suffix in laws_of(board).values()),
        status=status_sentence(dataset, fixes, sample),
        budget=budget_sentence(dataset, fixes, sample),
        remedy=remedy_sentence(dataset, fixes, sample),
        joined=JOINED,
        causes=_budget_rows(budget_table(dataset, fixes, sample)),
        models={name: _json_item(picture, f"figure-{name}") for name, picture in pictures.items()},
        history=dataset.attrs.get("history", ""),
    )


def _bounds(board: xr.Dataset, sample: int) -> str:
    """Say the bounds of one sample, with their laws; empty where it has none."""
    texts = []
    for law, suffix in laws_of(board).items():
        rmse_m = float(board[f"crlb_rmse{suffix}"].sel(sample=sample))
        if np.isfinite(rmse_m):
            texts.append(f"{length_text(rmse_m)} rms ({LAW_NAMES[law]})")
    return " and ".join(texts)


def _best_method(board: xr.Dataset) -> str:
    """Choose the method with the smallest median error of those that fail least."""
    return str(leaderboard_table(board).failures_percent.idxmin())  # the table has the smallest median first


def _median_sample(board: xr.Dataset, method: str) -> int:
    """Choose the sample whose error is the median of a method's errors; those without an error are left out."""
    error = board.error.sel({"method": method})
    tested = error.isel(sample=error.notnull().values)
    return int(tested.sample[tested.argsort().values[(tested.sizes["sample"] - 1) // 2]])


def _facts(dataset: xr.Dataset) -> dict[str, str]:
    """Say what the dataset holds, from its attributes and truth."""
    attrs = dataset.attrs
    rate_hz, names = attrs["sample_rate_hz"], [str(name) for name in dataset.receiver_name.values if str(name)]
    duration_s = dataset.attrs["duration_s"]
    snr = dataset.snr.values[dataset.receiver_present.values]
    facts = {
        "Dataset": str(attrs.get("title", "untitled")),
        "Network": f"{len(names)} receivers: {', '.join(names)}",
        "Samples": f"{dataset.sizes['sample']}, each {duration_s * 1e3:,.0f} ms at {rate_hz / 1e3:g} kHz",
        "Carrier": f"{attrs['centre_frequency_hz'] / 1e6:g} MHz",
        "Waveforms": _waveform_mix(dataset),
    }
    facts["Left out"] = "; ".join(f"{name}: {reason}" for name, reason in stations.left_out(dataset).items())
    if np.isfinite(snr).any():
        low, middle, high = np.nanpercentile(snr, [5, 50, 95])
        facts["SNR"] = f"median {middle:.0f} dB; nine links in ten between {low:.0f} and {high:.0f} dB"
    if "config" in attrs:
        config = Config.model_validate_json(attrs["config"])
        channel = config.channel
        facts["Recordings"] = _recordings(dataset, config)
        facts["Receiver clocks"] = f"{_CLOCKS[channel.clock]}{_clock_rates(config)}"
        facts["Oscillators"] = f"uniform within ±{channel.frequency_offset_max_hz:g} Hz"
        losses = f"{channel.environment_loss_min_db:g} to {channel.environment_loss_max_db:g} dB of environment loss"
        facts["Path loss"] = (
            f"free space, {_DIFFRACTION[channel.diffraction]}{losses}, shadowing of {channel.shadowing_sigma_db:g} dB"
        )
        facts["Paths"] = _path_effects(config)
        facts["Seed"] = f"{config.seed} (the same configuration and seed give the same dataset)"
    return {name: value for name, value in facts.items() if value}


def _recordings(dataset: xr.Dataset, config: Config) -> str:
    """How many recordings there are, of how many emissions; empty where each sample is its own."""
    if not config.has_recordings:
        return ""
    emissions, references = config.recording.emissions, config.recording.references
    places = "a known place" if references == 1 else "known places"
    known = f", {references} of them from {places}" if references else ""
    count = len(np.unique(dataset["recording"]))
    return f"{count}, of {emissions} emissions each{known}; these share receivers, oscillators and clocks"


def _clock_rates(config: Config) -> str:
    """What is simulated of the rates of clocks; empty if nothing is."""
    channel = config.channel
    effects = {
        f"rates within ±{config.first_rate_max * 1e6:.2g} ppm": config.first_rate_max > 0,
        f"Allan deviation {channel.clock_adev:g} at 1 s": channel.clock_adev > 0,
        "one crystal for clock and tuner": channel.one_crystal,
    }
    return "".join(f", {effect}" for effect, present in effects.items() if present)


def _path_effects(config: Config) -> str:
    """What the links have beyond one steady straight path; empty if nothing."""
    channel, speed = config.channel, config.geometry.transmitter_speed_max_m_s
    effects = {
        f"{channel.fading} fading": channel.fading != "none",
        f"{channel.multipath_taps_min} to {channel.multipath_taps_max} echoes": channel.multipath_taps_max > 0,
        f"{channel.nlos_ratio:.0%} without line of sight": channel.nlos_ratio > 0,
        f"transmitters move at up to {speed:g} m/s": speed > 0,
    }
    return ", ".join(effect for effect, present in effects.items() if present)


def _waveform_mix(dataset: xr.Dataset) -> str:
    kinds, counts = np.unique(dataset.waveform.values.astype(str), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    total = counts.sum()
    return ", ".join(f"{_WAVEFORMS.get(kinds[i], kinds[i])} {counts[i] / total:.0%}" for i in order if kinds[i])


def _budget_rows(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """Write the table of causes for people, a row each."""
    errors = [length_text(float(error_m)) for error_m in table.rms_error_m]
    shares = [f"{float(percent):.1f} %" for percent in table.share_percent]
    return list(zip(map(str, table.cause), errors, shares, map(str, table.most_by), strict=True))


def _pictures(dataset: xr.Dataset, board: xr.Dataset, fixes: xr.Dataset, sample: int) -> dict[str, Any]:
    """Draw the errors of all samples, and one sample, by name of the figure; only the IQ of that sample is read."""
    chosen, method = dataset.sel(sample=[sample]).load(), fixes.attrs["method"]
    pictures = {
        "error-cdf": plots.error_cdf(board),
        "calibration": plots.calibration(board),
        "error-map": plots.error_map(dataset, board, method),
        "scene-map": plots.scene_map(chosen, sample, board),
        "fix-map": plots.fix_map(chosen, sample, board),
    }
    if np.isfinite(fixes.budget.sel(sample=sample)).all():
        pictures["error-budget"] = plots.error_budget(fixes, sample)
    if "iq" in dataset:
        pictures |= {
            "cross-correlations": plots.cross_correlations(chosen, sample),
            "spectrograms": plots.spectrograms(chosen, sample),
            "envelopes": plots.envelopes(chosen, sample),
        }
    return pictures


def _json_item(picture: Any, target: str) -> str:
    """Serialize a picture for a script element; its identifiers do not depend on what this process drew before."""
    model = hv.renderer("bokeh").get_plot(picture).state
    for toolbar in model.select({"type": Toolbar}):
        toolbar.logo = None
    for plot in model.select({"type": Plot}):
        plot.sizing_mode = None  # the frame has its size; Bokeh warns that the whole plot has none
    text = json.dumps(json_item(model, ID(target)), ensure_ascii=False, separators=(",", ":"))
    names = {
        name: f"{target}-{number}" for number, name in enumerate(dict.fromkeys(re.findall(r'"id":"(p\d+)"', text)))
    }
    text = re.sub(r'"(p\d+)"', lambda match: f'"{names.get(match[1], match[1])}"', text)
    return text.replace("<", r"\u003c")  # else a name could end the script element, or keep it from ending
