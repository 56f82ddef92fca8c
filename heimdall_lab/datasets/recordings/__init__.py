"""Read what real receivers recorded into the dataset contract, and write datasets as recordings."""

from heimdall_lab.datasets.recordings.kiwisdr import read_kiwi
from heimdall_lab.datasets.recordings.locards import read_locards
from heimdall_lab.datasets.recordings.sigmf import read_sigmf
from heimdall_lab.datasets.recordings.sigmf_files import SigmfError
from heimdall_lab.datasets.recordings.sigmf_writing import write_sigmf

__all__ = ["SigmfError", "read_kiwi", "read_locards", "read_sigmf", "write_sigmf"]
