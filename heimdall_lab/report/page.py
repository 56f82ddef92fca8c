"""The leaderboard as a table, and one HTML file that shows what was simulated and how well each method located it."""

import json
import re
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from heimdall_lab.core.config import Config
from heimdall_lab.core.files import check_writable, write_text
from heimdall_lab.datasets import schema
from heimdall_lab.localization.leaderboard import MEANINGS, cautions, leaderboard_cells, leaderboard_table
from heimdall_lab.signals import pairs

_DIFFRACTION = {
    "none": "",
    "smooth_earth": "diffraction over a smooth Earth, ",
    "terrain": "diffraction over terrain, ",
}
_CLOCKS = {
    "gpsdo": "disciplined by GPS (standard deviation 50 ns)",
    "ntp": "set over the network (NTP, standard deviation 1 ms)",
    "none": "not synchronised (uniform within ±10 ms)",
}
_WAVEFORMS = {"voice": "FM voice", "tone": "single tone", "dual_tone": "DTMF dual tone", "noise": "band-limited noise"}

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --page: #ffffff; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e6edf3; --soft: #9da7b1; --line: #3d444d; --page: #14181d; }}
}}
body {{ max-width: 1100px; margin: 2rem auto 4rem; padding: 0 1rem; color: var(--ink); background: var(--page);
  font: 16px/1.55 system-ui, sans-serif; }}
h1 {{ font-size: 1.75rem; line-height: 1.25; margin-bottom: 0.5rem; }}
h2 {{ font-size: 1.25rem; margin: 2.5rem 0 0.5rem; border-bottom: 1px solid var(--line); padding-bottom: 0.25rem; }}
h3 {{ font-size: 1.05rem; margin: 2rem 0 0.25rem; }}
p {{ margin: 0.5rem 0; max-width: 75ch; }}
table {{ border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.35rem 0.75rem; border-bottom: 1px solid var(--line); text-align: right; }}
.leaderboard th, .leaderboard td {{ white-space: nowrap; padding: 0.35rem 0.5rem; }}
th:first-child, td:first-child {{ text-align: left; font-weight: 600; white-space: nowrap; }}
thead th {{ vertical-align: bottom; color: var(--soft); font-weight: 600; }}
.facts th, .facts td {{ text-align: left; vertical-align: top; }}
.facts th {{ color: var(--soft); }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1.25rem; font-size: 0.9rem; }}
dt {{ font-weight: 600; }}
dd {{ margin: 0; color: var(--soft); }}
.swatch {{ display: inline-block; width: 0.75em; height: 0.75em; border-radius: 50%; margin-right: 0.5em; }}
figure {{ margin: 0.75rem 0 0; padding: 0.75rem; background: #ffffff; border: 1px solid var(--line); border-radius: 6px;
  overflow-x: auto; }}
footer {{ margin-top: 3rem; color: var(--soft); font-size: 0.85rem; }}
</style>
<script>{bokeh}</script>
</head>
<body>
{body}
</body>
</html>
"""


class _Figure(NamedTuple):
    """A picture with its heading and caption."""

    name: str
    heading: str
    caption: str
    picture: Any


def write_report(dataset: xr.Dataset, board: xr.Dataset, path: str | Path) -> None:
    """Write one self-contained HTML file, which needs no network, on a dataset and its leaderboard.

    Parameters
    ----------
    dataset : xr.Dataset
        Of the contract, with truth; signals are drawn where it holds IQ.
    board : xr.Dataset
        Result of `metrics.compare` for the dataset.
    path : path
        The file; it appears complete or not at all, and the same inputs give the same bytes.

    Raises
    ------
    ValueError
        If the dataset breaks the contract.
    """
    html = _page(schema.check(dataset), board)
    check_writable(path, "report")
    write_text(Path(path), html)


def _page(dataset: xr.Dataset, board: xr.Dataset) -> str:
    from bokeh.resources import Resources  # here, so that the leaderboard does not wait seconds for plotting libraries

    method, sample = _representative(board)
    figures = _board_figures(dataset, board, method)
    of_sample = _sample_figures(dataset, board, sample)
    receivers = int(dataset.receiver_present.any("sample").sum())
    title = f"Locating a radio transmitter with {receivers} receivers"
    body = [
        f"<h1>{title}</h1>",
        f"<p>{_introduction(dataset)}</p>",
        "<h2>What was simulated</h2>" if "config" in dataset.attrs else "<h2>What was recorded</h2>",
        _facts_html(_facts(dataset)),
        "<h2>Leaderboard</h2>",
        _leaderboard_html(board),
        *map(_figure_html, figures),
        f"<h2>One sample in detail: sample {sample}</h2>",
        f"<p>{_sample_text(board, method, sample)}</p>",
        *map(_figure_html, of_sample),
        f"<footer>{escape(str(dataset.attrs.get('history', '')))}</footer>",
    ]
    bokeh = "\n".join(Resources(mode="inline", components=["bokeh", "bokeh-widgets"]).js_raw)
    return _PAGE.format(title=title, bokeh=bokeh, body="\n".join(body))


def _representative(board: xr.Dataset) -> tuple[str, int]:
    """Choose the best method of those that fail least, and the sample whose error is the median of its errors."""
    table = leaderboard_table(board)  # best median first
    method = str(table.failures_percent.idxmin())
    error = board.error.sel({"method": method})
    order = error.fillna(np.inf).argsort().values
    return method, int(board.sample[order[(len(order) - 1) // 2]])


def _introduction(dataset: xr.Dataset) -> str:
    return (
        "A transmitter's signal reaches receivers at different places at slightly different times. From these time "
        "differences, or from the levels, each method below computes where the transmitter stands: a <em>fix</em>. "
        f"Every method saw the same {dataset.sizes['sample']} samples; a sample is one transmission as all receivers "
        "hear it. Errors are distances from the true position."
    )


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
    if np.isfinite(snr).any():
        low, middle, high = np.nanpercentile(snr, [5, 50, 95])
        facts["SNR"] = f"median {middle:.0f} dB; nine links in ten between {low:.0f} and {high:.0f} dB"
    if "config" in attrs:
        config = Config.model_validate_json(attrs["config"])
        channel = config.channel
        facts["Receiver clocks"] = _CLOCKS.get(channel.clock, channel.clock)
        facts["Oscillators"] = f"uniform within ±{channel.frequency_offset_max_hz:g} Hz"
        losses = f"{channel.environment_loss_min_db:g} to {channel.environment_loss_max_db:g} dB of environment loss"
        facts["Path loss"] = (
            f"free space, {_DIFFRACTION[channel.diffraction]}{losses}, shadowing of {channel.shadowing_sigma_db:g} dB"
        )
        facts["Paths"] = _paths(config)
        facts["Seed"] = f"{config.seed} (the same configuration and seed give the same dataset)"
    return {name: value for name, value in facts.items() if value}


def _paths(config: Config) -> str:
    """What the links have beyond one steady straight path; empty if nothing."""
    channel, speed = config.channel, config.geometry.transmitter_speed_max_m_s
    parts = {
        f"{channel.fading} fading": channel.fading != "none",
        f"{channel.multipath_taps_min} to {channel.multipath_taps_max} echoes": channel.multipath_taps_max > 0,
        f"{channel.nlos_ratio:.0%} without line of sight": channel.nlos_ratio > 0,
        f"transmitters move at up to {speed:g} m/s": speed > 0,
    }
    return ", ".join(part for part, there in parts.items() if there)


def _waveform_mix(dataset: xr.Dataset) -> str:
    kinds, counts = np.unique(dataset.waveform.values.astype(str), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    total = counts.sum()
    return ", ".join(f"{_WAVEFORMS.get(kinds[i], kinds[i])} {counts[i] / total:.0%}" for i in order if kinds[i])


def _facts_html(facts: dict[str, str]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
    return f'<table class="facts">{rows}</table>'


def _leaderboard_html(board: xr.Dataset) -> str:
    from heimdall_lab.plots import method_styles

    table = leaderboard_table(board)
    styles = method_styles(str(name) for name in board.method.values)
    text = leaderboard_cells(table)
    head = "".join(f"<th>{escape(name)}</th>" for name in ["method", *text.columns])
    rows = []
    for method, *cells in text.itertuples():
        swatch = f'<span class="swatch" style="background:{styles[method][0]}"></span>'
        rows.append(f"<tr><td>{swatch}{escape(method)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    legend = "".join(f"<dt>{escape(name)}</dt><dd>{escape(meaning)}</dd>" for name, meaning in MEANINGS.items())
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    warnings = "".join(f"<p><strong>{escape(warning)}</strong></p>" for warning in cautions(table))
    return f'<table class="leaderboard">{body}</table>{warnings}<dl>{legend}</dl>'


def _sample_text(board: xr.Dataset, method: str, sample: int) -> str:
    from heimdall_lab.plots import length_text

    error, bound = (
        float(board.error.sel({"method": method, "sample": sample})),
        float(board.crlb_rmse.sel(sample=sample)),
    )
    return (
        f"Sample {sample} is shown because the error of {escape(method)}, {length_text(error)}, is the median of that "
        f"method's errors, so it is neither a good nor a bad case. "
        f"The Cramér-Rao bound of this sample is {length_text(bound)} rms."
    )


def _board_figures(dataset: xr.Dataset, board: xr.Dataset, method: str) -> list[_Figure]:
    """Draw the errors of all samples."""
    from heimdall_lab import plots

    return [
        _Figure(
            "error-cdf",
            "Distribution of errors",
            "Curves further left are better. The dashed curve is what physics allows: the errors of an ideal method, "
            "which reaches the Cramér-Rao bound in every sample.",
            plots.error_cdf(board),
        ),
        _Figure(
            "calibration",
            "Whether the ellipses are honest",
            "How often ellipses of each level hold the true position. On the dashed diagonal, or as near as the grey "
            "band, a method knows how far off it is; below it is overconfident, above too cautious.",
            plots.calibration(board),
        ),
        _Figure(
            "error-map",
            "Where it is hard",
            f"Each point is a true position, coloured by the error of {method}; where the method failed there is a "
            "cross. Triangles are receivers, where all samples have the same.",
            plots.error_map(dataset, board, method),
        ),
    ]


def _sample_figures(dataset: xr.Dataset, board: xr.Dataset, sample: int) -> list[_Figure]:
    """Draw one sample; only its IQ is read."""
    from heimdall_lab import plots

    chosen = dataset.sel(sample=[sample]).load()
    figures = [
        _Figure(
            "scene-map",
            "The network",
            "Triangles are receivers, the star is the true transmitter, and each coloured marker is one method's fix "
            "with the ellipse that should hold the truth in 95 of 100 cases; the largest reach beyond the map. A "
            "method that failed is drawn dotted, with the fix that stands in for its own.",
            plots.scene_map(chosen, sample, board),
        ),
        _Figure(
            "fix-map",
            "Around the transmitter",
            "The same fixes, closer. The dashed ellipse is the Cramér-Rao bound: 95 % of the fixes of a perfect method "
            "would fall inside it.",
            plots.fix_map(chosen, sample, board),
        ),
    ]
    return figures + (_signal_figures(chosen, sample) if "iq" in dataset else [])


def _signal_figures(chosen: xr.Dataset, sample: int) -> list[_Figure]:
    from heimdall_lab import plots

    return [
        _Figure(
            "cross-correlations",
            "Time differences",
            "The peak is where a receiver's signal matches the reference best. The dashed blue line and the title give "
            "the measured delay, the broad orange line the true one, clock errors included; 1 µs is 300 m of path.",
            plots.cross_correlations(chosen, sample, pairs.pair_features(chosen)),
        ),
        _Figure(
            "spectrograms",
            "What each receiver hears",
            "Bright is strong. The signal fills the same few kHz around the centre in every panel, shifted by each "
            "receiver's oscillator error; the rest is noise.",
            plots.spectrograms(chosen, sample),
        ),
        _Figure(
            "envelopes",
            "Received power",
            "The line is the mean power, the band holds 90 % of the IQ samples. A narrow band far up is a strong "
            "signal of constant envelope; a wide band is mostly noise.",
            plots.envelopes(chosen, sample),
        ),
    ]


def _figure_html(figure: _Figure) -> str:
    """Heading, caption and picture, its model as JSON beside the line of script that draws it."""
    target = f"figure-{figure.name}"
    item = _json_item(figure.picture, target).replace("</", "<\\/")
    return (
        f"<h3>{escape(figure.heading)}</h3><p>{escape(figure.caption)}</p>"
        f'<figure id="{target}"></figure>'
        f'<script type="application/json" id="{target}-model">{item}</script>'
        f'<script>Bokeh.embed.embed_item(JSON.parse(document.getElementById("{target}-model").textContent))</script>'
    )


def _json_item(picture: Any, target: str) -> str:
    """Serialize a picture with identifiers that do not depend on what else this process has drawn."""
    import holoviews as hv
    from bokeh.core.types import ID
    from bokeh.embed import json_item
    from bokeh.models import Plot, Toolbar

    model = hv.renderer("bokeh").get_plot(picture).state
    for toolbar in model.select({"type": Toolbar}):
        toolbar.logo = None
    for plot in model.select({"type": Plot}):
        plot.sizing_mode = None  # the frame has its size; Bokeh warns that the whole plot has none
    text = json.dumps(json_item(model, ID(target)), ensure_ascii=False, separators=(",", ":"))
    names = {
        name: f"{target}-{number}" for number, name in enumerate(dict.fromkeys(re.findall(r'"id":"(p\d+)"', text)))
    }
    return re.sub(r'"(p\d+)"', lambda match: f'"{names.get(match[1], match[1])}"', text)
