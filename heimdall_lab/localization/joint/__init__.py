"""Joint calibration and location: the emissions of a recording, known or unknown, tell the clocks of their receivers.

`estimator` holds `tdoa_joint`, and `clocks` says what the same solution tells of clocks. Both take recordings as arrays
(`recordings`, `pseudo_ranges`, `clock_rates`), search (`search`) with descents (`solver`), and say what the solution
rests on (`calibration`), what of it can be known (`observability`) and why some cannot (`refusals`). The linear
equations are of `shared_clocks`, which the bounds use, too.
"""

from heimdall_lab.localization.joint.clocks import clocks
from heimdall_lab.localization.joint.estimator import tdoa_joint

__all__ = ["clocks", "tdoa_joint"]
