"""Read what real receivers recorded into the dataset contract."""

from heimdall_lab.recordings.kiwisdr import read_kiwi

__all__ = ["read_kiwi"]
