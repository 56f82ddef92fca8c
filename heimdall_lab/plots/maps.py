"""Maps of one scene: its network, the surroundings of its fixes, and the likelihood of every position."""

import holoviews as hv
import numpy as np
import xarray as xr
from bokeh.models import NumeralTickFormatter

from heimdall_lab.core import geodesy
from heimdall_lab.core.text import length_text
from heimdall_lab.localization import ellipses
from heimdall_lab.localization.delay_law import LAW_NAMES, laws_of
from heimdall_lab.plots.ground import ground_layer
from heimdall_lab.plots.labels import TRIANGLE, label_boxes, label_columns, label_layers
from heimdall_lab.plots.projections import tangent_plane
from heimdall_lab.plots.scene_layers import (
    ELLIPSE_LEVEL,
    drawn_fixes,
    fix_ellipse,
    fix_layers,
    projected_places,
    receiver_positions,
    scene_plane,
    scene_receiver_layers,
    transmitter_position,
    truth_layers,
)
from heimdall_lab.plots.style import LAW_DASHES, MAP_OPTIONS, TRUTH, load_scene, map_limits, receiver_names

_ON_MAGMA = "#56B4E9"  # is seen on the map's colours, and beside it on light and dark pages


def scene_map(dataset: xr.Dataset, sample: int, fixes: xr.Dataset | None = None) -> hv.Overlay:
    """Draw one scene: receivers, true transmitter, and fixes with their 95 % ellipses.

    The axes are km east and north on the tangent plane at the centroid of the present receivers. The view holds
    receivers, transmitter and fixes; ellipses may reach beyond it. Of what is no fix the best candidate has a dotted
    ellipse and a legend that says why; small open circles are other places that fit as well.

    Parameters
    ----------
    dataset : xr.Dataset
        Receivers without signal are hollow; an unknown transmitter is left out.
    sample : int
        Label of the scene along ``sample``.
    fixes : xr.Dataset, optional
        As `estimators.locate` or `leaderboard.compare` return them.

    Raises
    ------
    ValueError
        If the sample is not in the dataset.
    """
    scene = load_scene(dataset, sample)
    projection, drawn = scene_plane(scene), drawn_fixes(scene, fixes)
    x_range, y_range = map_limits(projected_places(scene, drawn, projection))
    place = projection.project(receiver_positions(scene))
    columns = label_columns(place, receiver_names(scene), projection.axes, x_range)
    layers = [ground_layer(projection, x_range, y_range, label_boxes(columns, x_range))]
    layers += scene_receiver_layers(scene, projection)
    layers += label_layers(columns, projection.axes)
    layers += truth_layers(scene, projection)
    for fix in drawn:
        layers += fix_layers(fix, projection)
    title = f"Sample {sample}: network and fixes" if drawn else f"Sample {sample}: network"
    return hv.Overlay(layers).opts(title=title, xlim=x_range, ylim=y_range, **MAP_OPTIONS, backend="bokeh")


def fix_map(dataset: xr.Dataset, sample: int, fixes: xr.Dataset) -> hv.Overlay:
    """Draw the surroundings of the transmitter: fixes, their 95 % ellipses and those of the Cramér-Rao bounds.

    The axes are metres or kilometres east and north of the transmitter or, where it is unknown, of the fix with the
    smallest ellipse. Fixes that are many times further away than the best one are left out, and the legend says so.
    They are as `estimators.locate` or `leaderboard.compare` return them; the bounds' covariances (`bounds.crlb_by_law`)
    are drawn if they are there and finite.
    ValueError if there is no sample of that label.
    """
    scene = load_scene(dataset, sample)
    drawn = drawn_fixes(scene, fixes)
    truth = transmitter_position(scene)
    best = min(drawn, key=lambda fix: np.nan_to_num(np.trace(fix.covariance), nan=np.inf))
    centre = truth if truth is not None else best.position
    latitude, longitude, _ = geodesy.geodetic(centre)

    def metres(ecef: np.ndarray) -> np.ndarray:
        return geodesy.enu(ecef, latitude, longitude)[:, :2]

    outlines = _bound_outlines(fixes, sample)
    outline = np.concatenate([np.zeros((1, 2)), *(outline for _, _, outline in outlines)])
    offsets = np.concatenate([metres(fix.position[None]) for fix in drawn])
    distances = np.hypot(*offsets.T)
    widest = 6 * max(distances.min(), np.abs(outline).max(), 1.0)
    near = distances <= widest
    ellipses = [metres(fix_ellipse(fix)) for fix, shown in zip(drawn, near, strict=True) if shown]
    places = [e for e in ellipses if np.hypot(*e.T).max() <= widest]  # false where not finite
    x_range, y_range = map_limits(np.concatenate([offsets[near], outline, np.zeros((1, 2)), *places]), margin=0.1)
    unit, scale = ("km", 1e-3) if x_range[1] - x_range[0] > 4e3 else ("m", 1.0)
    x_range, y_range = (tuple(np.multiply(limits, scale)) for limits in (x_range, y_range))
    projection = tangent_plane(float(latitude), float(longitude), unit)
    layers = [ground_layer(projection, x_range, y_range)]
    layers += truth_layers(scene, projection)
    for label, dash, outline in outlines:
        curve = hv.Curve(outline * scale, *projection.axes, label=label)
        layers.append(curve.opts(color=TRUTH, line_dash=dash, line_width=1.5, backend="bokeh"))
    for fix, shown in zip(drawn, near, strict=True):
        inside = np.hypot(*metres(fix.rivals).T) <= widest
        label = fix.label if shown else f"{fix.label} (outside)"
        layers += fix_layers(fix._replace(rivals=fix.rivals[inside]), projection, label)
    around = "transmitter" if truth is not None else f"fix of {best.method}"
    return hv.Overlay(layers).opts(
        title=f"Sample {sample}: fixes around the {around}",
        xlim=x_range,
        ylim=y_range,
        **MAP_OPTIONS,
        backend="bokeh",
    )


def _bound_outlines(fixes: xr.Dataset, sample: int) -> list[tuple[str, str, np.ndarray]]:
    """Legend, dash and outline (points, 2) m of the 95 % ellipse of each bound that fixes come with, by its law."""
    outlines = []
    for law, suffix in laws_of(fixes).items():
        if f"crlb_covariance{suffix}" not in fixes:
            continue
        covariance = fixes[f"crlb_covariance{suffix}"].sel(sample=sample).values
        if np.isfinite(covariance).all():
            rms = length_text(np.sqrt(np.trace(covariance)))
            outline = np.nan_to_num(ellipses.ellipse(covariance, ELLIPSE_LEVEL))
            outlines.append((f"Cramér-Rao bound, {LAW_NAMES[law]}, 95 % (rms {rms})", LAW_DASHES[law], outline))
    return outlines


def likelihood_map(
    dataset: xr.Dataset, sample: int, likelihood: xr.DataArray, fixes: xr.Dataset | None = None
) -> hv.Overlay:
    """Draw how likely every position is by `dpd.likelihood`; the less likely half of the map has one colour.

    The axes are those of `scene_map`. Fixes, as `estimators.locate` or `leaderboard.compare` return them, are drawn
    without their ellipses. ValueError if there is no sample of that label.
    """
    scene = load_scene(dataset, sample)
    projection = scene_plane(scene)
    east_km, north_km = (likelihood[name].values / 1e3 for name in ("east", "north"))
    limits = {"xlim": (east_km[0], east_km[-1]), "ylim": (north_km[0], north_km[-1])}
    level = hv.Dimension("log_likelihood", label="log likelihood below the best")
    image = hv.Image(
        (east_km, north_km, likelihood.transpose("north", "east").values), projection.axes, level, rtol=1e-3
    )
    colours = {"cmap": "magma", "clim": (float(likelihood.median()), 0.0), "colorbar": True, "clabel": level.label}
    colours["cformatter"] = NumeralTickFormatter(format="0,0")
    outline = {"fill_alpha": 0, "line_width": 1.5, "color": _ON_MAGMA}
    columns = (*projection.project(receiver_positions(scene)).T, receiver_names(scene))
    triangles = hv.Points(columns, projection.axes, "receiver", label="receiver")
    layers = [
        image.opts(**colours, backend="bokeh"),
        ground_layer(projection, limits["xlim"], limits["ylim"], on_colours=True),
        triangles.opts(**TRIANGLE | outline, tools=["hover"], backend="bokeh"),
        *(star.opts(**outline, backend="bokeh") for star in truth_layers(scene, projection)),
    ]
    for fix in drawn_fixes(scene, fixes):
        layers += fix_layers(fix, projection, ellipse=False)
    options = MAP_OPTIONS | {"frame_width": MAP_OPTIONS["frame_height"], "show_grid": False}  # the map is a square
    title = f"Sample {sample}: what the IQ of all receivers says together"
    return hv.Overlay(layers).opts(title=title, **limits, **options, backend="bokeh")
