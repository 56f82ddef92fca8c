"""Read what real receivers recorded into the dataset contract."""

from heimdall_lab.recordings.kiwisdr import read_kiwi
from heimdall_lab.recordings.locards import read_locards

__all__ = ["read_kiwi", "read_locards"]
