"""The command that makes SigMF of what SDR programs record."""

from pathlib import Path
from typing import Annotated

import typer

import heimdall_lab as hl
from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.text import quoted


def import_recordings(
    files: Annotated[
        list[Path], typer.Argument(help="WAVs of SDR programs, or raw .cu8, .cs8, .cs16 or .cf32.", metavar="FILE...")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write into.", metavar="DIR")] = Path(),
    rate: Annotated[float | None, typer.Option(help="Sample rate, Hz; raw samples need it.", metavar="HZ")] = None,
    frequency: Annotated[
        float | None, typer.Option(help="Centre frequency, Hz, where the file does not tell it.", metavar="HZ")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="UTC of the first sample, good to its last digit.", metavar="2024-05-01T12:00:00.123456Z"),
    ] = None,
    position: Annotated[
        str | None, typer.Option(help="Of the receiver, degrees and metres.", metavar="LAT,LON[,ALTITUDE]")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the receiver, and of the SigMF files.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace SigMF files of the same name.")] = False,
) -> None:
    """Make SigMF of WAVs of SDR programs and of raw samples, each of them a recording."""
    if len(files) > 1:
        for option, given in {"start": start, "position": position, "name": name}.items():
            if given is not None:
                raise ConfigError(f"{option}: is of one recording, but {len(files)} are given; import one at a time")
    place = _place(position)
    for file in files:
        meta = hl.import_recording(
            file,
            out,
            sample_rate_hz=rate,
            centre_frequency_hz=frequency,
            start=start,
            position=place,
            name=name,
            overwrite=overwrite,
        )
        print(f"{file}: {meta}")


def _place(text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"position: {quoted(text)} is not of the form LAT,LON or LAT,LON,ALTITUDE") from error
