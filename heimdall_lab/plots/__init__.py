"""Pictures of scenes, signals, measurements and errors: pure functions that return HoloViews objects (Bokeh).

`maps` (one scene), `hyperbola_map` and `bound_maps` (an area) draw maps, from the parts in `scene_layers` and `labels`,
over the `ground` that `ground_data` reads, by `projections`;
`signals` draws IQ and its correlation, `clocks` those of a recording, `links` the features of links as Bokeh figures
that share their selection, `errors` a leaderboard, `error_budget` what one fix's error is made of, `training` a run,
`goodness_of_fit` statistics beside their law. Colours, fonts and the markers of methods are in `style`. A new picture
goes to the module of its subject, and its function into the list below.
"""

import holoviews.plotting.bokeh  # noqa: F401  registers the renderer

from heimdall_lab.core.text import length_text, position_text
from heimdall_lab.plots.bound_maps import (
    bound_ellipses,
    bound_map,
    network_area,
    network_map,
    point_text,
    redraw_network,
    site_map,
    site_text,
)
from heimdall_lab.plots.clocks import clock_walks, errors_by_emissions, pair_delays
from heimdall_lab.plots.error_budget import error_budget
from heimdall_lab.plots.errors import calibration, error_by_bin, error_cdf, error_map
from heimdall_lab.plots.goodness_of_fit import curves, distribution
from heimdall_lab.plots.hyperbola_map import hyperbolas, trace_hyperbolas
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
from heimdall_lab.plots.maps import fix_map, likelihood_map, scene_map
from heimdall_lab.plots.signals import constellation, cross_correlations, envelopes, spectrograms, waterfall
from heimdall_lab.plots.style import method_styles
from heimdall_lab.plots.training import error_curve, learning_curves

__all__ = [
    "COLOUR_BY",
    "bound_ellipses",
    "bound_map",
    "calibration",
    "clock_walks",
    "constellation",
    "cross_correlations",
    "curves",
    "distribution",
    "envelopes",
    "error_budget",
    "error_by_bin",
    "error_cdf",
    "error_curve",
    "error_map",
    "errors_by_emissions",
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
    "pair_delays",
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
