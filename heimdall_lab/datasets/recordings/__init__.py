"""Read what real receivers recorded into the dataset contract, and write datasets as recordings.

KiwiSDR: `kiwisdr`, with the file format and the receiver's clock in `kiwi_wav`. WAVs of other SDRs: `wav`, with the
files in `wav_files`; both are put on one time axis by `time_axis`. SigMF: `sigmf`, with archives in `sigmf_stored`,
metadata in `sigmf_files`, samples in `sigmf_samples`, what is known of receivers in `sigmf_receivers`, the common axis
in `sigmf_time`, captures and bands that are emissions of one recording in `sigmf_emissions` and `sigmf_bands`, which of
them are references in `references`, windows in `sigmf_cutting`, and `sigmf_writing`; `importing` makes SigMF of WAVs
and raw samples. LocaRDS: `locards`. `files` reads SigMF or WAVs by their names, `published` finds or fetches recordings
to try. A new format is a module here with one ``read_…`` function.
"""

from heimdall_lab.datasets.recordings.importing import import_recording
from heimdall_lab.datasets.recordings.kiwisdr import read_kiwi
from heimdall_lab.datasets.recordings.locards import read_locards
from heimdall_lab.datasets.recordings.sigmf import read_sigmf
from heimdall_lab.datasets.recordings.sigmf_stored import SigmfError
from heimdall_lab.datasets.recordings.sigmf_writing import write_sigmf
from heimdall_lab.datasets.recordings.wav import read_wav

__all__ = ["SigmfError", "import_recording", "read_kiwi", "read_locards", "read_sigmf", "read_wav", "write_sigmf"]
