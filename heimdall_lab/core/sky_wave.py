"""Sky waves of one hop: the length of a path that the ionosphere reflects once."""

import numpy as np

from heimdall_lab.core.arrays import Array
from heimdall_lab.core.units import EARTH_RADIUS_KM

# Virtual heights of reflection, any as likely between these: the F layer by day
# and night (ITU-R P.533-14, on mirror-reflection heights).
LEAST_HEIGHT_M, LARGEST_HEIGHT_M = 200e3, 400e3
MEAN_HEIGHT_M = (LEAST_HEIGHT_M + LARGEST_HEIGHT_M) / 2
HEIGHT_SIGMA_M = (LARGEST_HEIGHT_M - LEAST_HEIGHT_M) / 12**0.5
LONGEST_HOP_M = 4000e3  # over ground, by the F2 layer: ITU-R P.533-14


def hop(distance_m: Array, height_m: Array) -> tuple[Array, Array, Array]:
    """Length (...) m of one hop, and its change for 1 m more of distance and of height.

    Two straight legs meet at a mirror at a virtual height above the middle of the way over ground, on a sphere. By the
    theorem of Breit and Tuve a signal is as late over them as over the curved path.

    Parameters
    ----------
    distance_m : (...)
        Over ground.
    height_m : (...)
        Virtual height of reflection.

    Source: Davies, Ionospheric Radio (1990), on virtual heights and the theorem of Breit and Tuve.

    >>> import numpy as np
    >>> [round(float(value), 4) for value in hop(np.array(0.0), np.array(300e3))]
    [600000.0, 0.0, 2.0]
    """
    radius = EARTH_RADIUS_KM * 1e3
    mirror = radius + height_m
    half_angle = distance_m / (2 * radius)
    # |leg|² = r² + m² − 2 r m cos θ, without the cancellation of near terms
    leg = np.sqrt(height_m**2 + 4 * radius * mirror * np.sin(half_angle / 2) ** 2)
    along_distance = mirror * np.sin(half_angle) / leg
    along_height = 2 * (height_m + 2 * radius * np.sin(half_angle / 2) ** 2) / leg
    return 2 * leg, along_distance, along_height
