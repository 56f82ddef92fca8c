"""Joint calibration and location: the emissions of a recording, known or unknown, tell the clocks of their receivers.

`estimator` holds `tdoa_joint`. It takes recordings as arrays (`recordings`, `pseudo_ranges`, `clock_rates`), searches
(`search`) with descents (`solver`), and says what the solution rests on (`calibration`) and what of it can be known
(`observability`). The linear equations are of `shared_clocks`, which the bounds use, too.
"""

from heimdall_lab.localization.joint.estimator import tdoa_joint

__all__ = ["tdoa_joint"]
