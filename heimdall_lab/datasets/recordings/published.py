"""Published recordings to try the workbench on: found on this machine, or fetched once and checked."""

import os
import re
from pathlib import Path

import pooch

from heimdall_lab.core.files import write_text
from heimdall_lab.core.text import quoted

_ENVIRONMENT = "HEIMDALL_LAB_REAL"
_DCF77_URL = "https://raw.githubusercontent.com/hcab14/TDoA/f7cdfeb9c04f7508c955f82cbbdbbbb5c8f24d51/"
_DCF77 = {
    "iq/20200813T065220Z_77500_HB9ODP_iq.wav": "87916f71b32a519d2abb55a85294112adfb4452397af0b0ccf12555ab3ac775d",
    "iq/20200813T065220Z_77500_JO51xl_iq.wav": "045c038e7bac3321abe9413d41a8c8d0fa3d60bc7a315a6cdb6a573bc484b702",
    "iq/20200813T065220Z_77500_pa0rdt_iq.wav": "90727bc9020b18088228709bbd3e77d0f876db0adcbf9503eb330e7fbc14fc8c",
    "gnss_pos/HB9ODP.txt": "8ad0891214838ed99429087238bd7e2396e6b5e466c6ff2dfea80fb3b03e9c6c",
    "gnss_pos/JO51xl.txt": "2e0ee812fe2eba609d1a6b8a2f4ba8e9218191279728dac781bbc88be4dc5694",
    "gnss_pos/pa0rdt.txt": "e6135c9ac3af093d6541d356800a57566949b39ee263baa422e3bac8e8b48a34",
}
_LOCARDS_URL = "https://raw.githubusercontent.com/lschoe/mpyc/75bafb855f6162c7c5f9f0c58f5d29503e634bcf/demos/data/mlat/"
_LOCARDS = {
    "sensors.csv": "998a63f5fc89fa41fd1a37468431da96f355812054e7bca8b2a4f4db0ba47d1b",
    "set_1.csv": "7167988f67af8314a2d9f44378f748f3a897de783c85271a154cbd81d49d20f5",
    "set_2.csv": "c41fce864b2b92e9f64d3aa0a71a6f1744b4b749b3e4b3d30e777a1e80d9169b",
    "set_3.csv": "9bf13e41f9abebccddc15d07f048ef304eac45d6267f4e69448fb457d8d57c2d",
    "set_4.csv": "db90b4df13eef3df6622f16f4166d9e4312ad1b28cde58894a16e2fcc77e3109",
}
_POSITION = re.compile(r"d\.(?P<name>\w+) = struct\('coord', \[(?P<latitude>[-.\d]+),(?P<longitude>[-.\d]+)\]")


def dcf77(cache: str | Path | None = None, url: str = _DCF77_URL) -> tuple[list[Path], Path]:
    """Return three simultaneous KiwiSDR recordings of DCF77 (77.5 kHz), and the table of their receivers.

    They are taken from the folder that the environment variable HEIMDALL_LAB_REAL names, if it is set; else from the
    cache, and into it from the network the first time (4.3 MB).

    Parameters
    ----------
    cache : path, optional
        By default the user's cache folder.
    url : str
        Where to fetch from.

    Returns
    -------
    recordings : list of Path
    receivers : Path
        CSV file.

    Raises
    ------
    ValueError
        If a file can be neither found nor fetched, or is not the published one.

    Source
    ------
    github.com/hcab14/TDoA (GPL-3.0), recorded on 13 August 2020.
    """
    if local := _local_folder("kiwisdr_dcf77_2020", "*_iq.wav"):
        return sorted(local.glob("*_iq.wav")), local / "receivers.csv"
    files = _fetch("kiwisdr_dcf77_2020", _DCF77, url, cache)
    stations = [_POSITION.match(file.read_text()) for file in files if file.suffix == ".txt"]
    rows = [f"{s['name']},{s['latitude']},{s['longitude']}" for s in stations if s]
    table = files[0].parents[1] / "receivers.csv"
    write_text(table, "\n".join(["name,latitude_deg,longitude_deg", *rows]) + "\n", "cache")
    return [file for file in files if file.suffix == ".wav"], table


def locards(cache: str | Path | None = None, url: str = _LOCARDS_URL) -> tuple[list[Path], Path]:
    """Return four tables of aircraft messages that up to five sensors time-stamped, and the table of the sensors.

    Found or fetched (0.3 MB) as `dcf77`, with the same parameters and errors.

    Returns
    -------
    tables : list of Path
        CSV files for `recordings.read_locards`.
    sensors : Path
        CSV file.

    Source
    ------
    LocaRDS (CC-BY-SA), doi 10.5281/zenodo.4739276, as in github.com/lschoe/mpyc.
    """
    if local := _local_folder("locards", "set_*.csv"):
        return sorted(local.glob("set_*.csv")), local / "sensors.csv"
    sensors, *tables = _fetch("locards", _LOCARDS, url, cache)
    return tables, sensors


def _local_folder(name: str, pattern: str) -> Path | None:
    """Folder of recordings on this machine, None where no variable names one."""
    folder = os.environ.get(_ENVIRONMENT)
    if not folder:
        return None
    local = Path(folder) / name
    if not any(local.glob(pattern)):
        raise ValueError(f"{_ENVIRONMENT}: {quoted(folder)} holds no {name}/{pattern}; correct or unset it")
    return local


def _fetch(name: str, registry: dict[str, str], url: str, cache: str | Path | None) -> list[Path]:
    """Files of a registry, from the cache or the network."""
    fetcher = pooch.create(Path(cache or pooch.os_cache("heimdall_lab")) / name, base_url=url, registry=registry)
    try:
        return [Path(fetcher.fetch(file)) for file in registry]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name}: cannot be fetched from {url} ({error}); connect to the network, or put them in a folder {name} "
            f"and name the folder above it in {_ENVIRONMENT}"
        ) from error
