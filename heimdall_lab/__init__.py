"""Workbench for locating radio transmitters with distributed SDR receivers."""

from heimdall_lab.config import Config, preset
from heimdall_lab.generate import generate
from heimdall_lab.schema import iq
from heimdall_lab.store import datasets, open_dataset
__all__=["Config","preset","generate","iq","datasets","open_dataset"]
