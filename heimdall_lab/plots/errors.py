"""Pictures of errors against what the Cramér-Rao bound allows."""

import holoviews as hv
import numpy as np
import xarray as xr

from heimdall_lab.plots.style import MAP_OPTIONS, TRUTH, method_styles

_ERROR_AXES = (
    hv.Dimension("error_m", label="error", unit="m"),
    hv.Dimension("share", label="share of samples", unit="%"),
)


def error_cdf(board: xr.Dataset) -> hv.Overlay:
    """Draw the share of fixes with at most a given error for each method, and the same for an ideal method.

    The ideal method's errors are normal with the Cramér-Rao bound of each scene as their covariance.

    Parameters
    ----------
    board : xr.Dataset
        Result of `metrics.compare`.

    Returns
    -------
    hv.Overlay
        Steps over a logarithmic axis in m.
    """
    board = board.isel(sample=board.error.notnull().any("method").values)  # those whose true position is known
    styles = method_styles(board.method.values)
    curves = [
        _steps(board.error.sel({"method": method}).values, method).opts(color=styles[method][0], backend="bokeh")
        for method in board.method.values
    ]
    ideal = _ideal_cdf(board.crlb_covariance.values)
    curves.append(ideal.opts(color=TRUTH, line_dash="dashed", line_width=2, backend="bokeh"))
    errors_m = np.concatenate([curve.dimension_values("error_m") for curve in curves])
    x_range = (errors_m.min() / 1.5, errors_m.max() * 1.5) if len(errors_m) else (1.0, 1e3)
    options = MAP_OPTIONS | {"frame_height": 300, "xlim": x_range, "ylim": (0, 101), "logx": True}
    title = f"Share of {board.sizes['sample']} samples located within an error"
    return hv.Overlay(curves).opts(title=title, **options, backend="bokeh")


def _steps(error_m: np.ndarray, label: str) -> hv.Curve:
    """Cumulative distribution of errors (S,); unknown ones count as larger than any."""
    ordered = np.maximum(np.sort(error_m[np.isfinite(error_m)]), 1e-3)  # a logarithmic axis has no 0
    share = 100 * np.arange(1, len(ordered) + 1) / max(1, error_m.size)
    curve = hv.Curve((ordered, share), *_ERROR_AXES, label=label)
    return curve.opts(interpolation="steps-post", line_width=2, tools=["hover"], backend="bokeh")


def _ideal_cdf(covariance: np.ndarray) -> hv.Curve:
    """Distribution of the length of normal errors with covariances (S, 2, 2) m², scenes without a bound left out.

    Along the direction φ of the whitened error z, |error|² = |z|² (a² cos² φ + b² sin² φ) with a and b the standard
    deviations along the axes of the ellipse, and |z|² exceeds x with probability exp(−x/2).
    """
    label = "ideal (CRLB)"
    known = covariance[np.isfinite(covariance).all(axis=(1, 2))]
    a_squared, b_squared = np.linalg.eigvalsh(known).T[..., None]  # (S, 1)
    angle = (np.arange(360) + 0.5) * np.pi / 360
    stretch = a_squared * np.cos(angle) ** 2 + b_squared * np.sin(angle) ** 2  # (S, angles)
    if not len(known):
        return hv.Curve([], *_ERROR_AXES, label=label)
    error = np.geomspace(np.sqrt(stretch.min()) / 30, 4 * np.sqrt(stretch.max()), 400)
    share = 100 * np.array([1 - np.exp(-(e**2) / 2 / stretch).mean() for e in error])
    shown = (share > 0.3) & (share < 99.9)
    return hv.Curve((error[shown], share[shown]), *_ERROR_AXES, label=label)
