"""Published recordings to try the workbench on: found on this machine, or fetched once and checked."""

import os
import re
from pathlib import Path

import pooch

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
    if folder := os.environ.get(_ENVIRONMENT):
        local = Path(folder) / "kiwisdr_dcf77_2020"
        recordings = sorted(local.glob("*_iq.wav"))
        if not recordings:
            raise ValueError(f"{_ENVIRONMENT}: {folder!r} holds no kiwisdr_dcf77_2020/*_iq.wav; correct or unset it")
        return recordings, local / "receivers.csv"
    root = Path(cache or pooch.os_cache("heimdall_lab")) / "dcf77"
    fetcher = pooch.create(path=root, base_url=url, registry=_DCF77)
    try:
        files = [Path(fetcher.fetch(name)) for name in _DCF77]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"DCF77 recordings: cannot be fetched from {url} ({error}); connect to the network, or put them in a "
            f"folder kiwisdr_dcf77_2020 and name the folder above it in {_ENVIRONMENT}"
        ) from error
    stations = [_POSITION.match(file.read_text()) for file in files if file.suffix == ".txt"]
    rows = [f"{s['name']},{s['latitude']},{s['longitude']}" for s in stations if s]
    table = root / "receivers.csv"
    table.write_text("\n".join(["name,latitude_deg,longitude_deg", *rows]) + "\n")
    return [file for file in files if file.suffix == ".wav"], table
