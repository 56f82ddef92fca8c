"""The picture of what a fix's error is made of: bars as long as the budget says, the largest first."""

import holoviews as hv
import numpy as np
from bokeh.models import Plot
from pictures import axis_labels, layers
from stated_fixes import stated

from heimdall_lab import plots


def test_bars_are_as_long_as_the_causes_say_and_the_last_is_their_sum() -> None:
    fixes = stated()
    picture = plots.error_budget(fixes, 0)
    (bars,) = layers(picture, hv.Bars)
    names, lengths_m = (bars.dimension_values(number)[::-1] for number in range(2))
    assert list(names) == ["altitude", "noise", "receiver positions", "clocks", "paths", "in all"]
    by_name = {str(cause).replace("_", " "): value for cause, value in fixes.budget[0].to_series().items()}
    np.testing.assert_allclose(lengths_m[:-1], [by_name[name] for name in names[:-1]])
    assert lengths_m[-1] == np.sqrt(np.trace(fixes.covariance[0]))
    (written,) = layers(picture, hv.Labels)
    assert [str(text).strip() for text in written.dimension_values("text")[::-1]][:2] == ["125 m", "15.0 m"]
    assert axis_labels(picture) == {"rms error of the position (m)"}


def test_bars_fit_into_the_picture_with_what_is_written_beside_them() -> None:
    root = hv.renderer("bokeh").get_plot(plots.error_budget(stated(altitude=2e6), 0)).state
    (figure,) = root.select({"type": Plot})
    assert figure.x_range.start == 0
    assert figure.x_range.end > 1.2 * 2e6


def test_without_known_causes_there_are_no_bars() -> None:
    fixes = stated()
    picture = plots.error_budget(fixes.assign(budget=fixes.budget * np.nan), 0)
    assert len(layers(picture, hv.Bars)[0]) == 0
    hv.renderer("bokeh").get_plot(picture)
