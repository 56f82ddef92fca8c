"""Scenes drawn with gates that tests set."""

import heimdall_lab as hl

P_VALUE = 1e-4
OPEN = {"min_receivers": 3, "min_snr_db": -30.0, "min_mean_snr_db": -30.0, "max_gdop": 1e12}


def config(gate, **overrides) -> hl.Config:
    return hl.preset("los_sync", **{"num_samples": 300, "seed": 5, "gate": gate, **overrides})
