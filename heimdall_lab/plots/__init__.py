"""Pictures of scenes, signals, measurements and errors: pure functions that return HoloViews objects (Bokeh).

Those of links return Bokeh figures, which share what is selected.
"""

import holoviews.plotting.bokeh  # noqa: F401  registers the renderer

from heimdall_lab.core.text import length_text, position_text
from heimdall_lab.plots.coverage import bound_ellipses, bound_map, site_map
from heimdall_lab.plots.error_maps import error_map
from heimdall_lab.plots.errors import calibration, error_by_bin, error_cdf
from heimdall_lab.plots.laws import curves, distribution
from heimdall_lab.plots.links import (
    COLOUR_BY,
    feature_label,
    link_colours,
    link_histograms,
    link_map,
    link_rows,
    link_scatter,
    link_truth,
)
from heimdall_lab.plots.maps import fix_map, hyperbolas, likelihood_map, scene_map, trace_hyperbolas
from heimdall_lab.plots.network import network_area, network_map, point_text, redraw_network, site_text
from heimdall_lab.plots.signals import constellation, cross_correlations, envelopes, spectrograms, waterfall
from heimdall_lab.plots.style import method_styles
from heimdall_lab.plots.training import error_curve, learning_curves

__all__ = [
    "COLOUR_BY",
    "bound_ellipses",
    "bound_map",
    "calibration",
    "constellation",
    "cross_correlations",
    "curves",
    "distribution",
    "envelopes",
    "error_by_bin",
    "error_cdf",
    "error_curve",
    "error_map",
    "feature_label",
    "fix_map",
    "hyperbolas",
    "learning_curves",
    "length_text",
    "likelihood_map",
    "link_colours",
    "link_histograms",
    "link_map",
    "link_rows",
    "link_scatter",
    "link_truth",
    "method_styles",
    "network_area",
    "network_map",
    "point_text",
    "position_text",
    "redraw_network",
    "scene_map",
    "site_map",
    "site_text",
    "spectrograms",
    "trace_hyperbolas",
    "waterfall",
]
