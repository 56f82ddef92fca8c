"""Direct position determination: the position under which the IQ of all receivers fits one waveform best.

Nothing is decided receiver by receiver, so that even those in which the signal cannot be found alone add to the fix.
`estimator` holds `dpd` and `likelihood`. They whiten the signals (`whitening`), search a grid of positions and those of
the time differences (`search`), correlate all pairs of receivers (`correlations`) and refine the best positions
(`refinement`) by the largest eigenvalue of the delayed signals' Gram matrix (`eigenvalues`). `verification` compares a
fix with each receiver's delay against the waveform of the others.
"""

from heimdall_lab.localization.dpd.estimator import dpd, likelihood

__all__ = ["dpd", "likelihood"]
