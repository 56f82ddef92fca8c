"""Commands that measure and locate signals and compare methods."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import heimdall_lab as hl
from heimdall_lab.cli.arguments import (
    Folder,
    Json,
    Verify,
    known_name,
    method_name,
    position,
    print_table,
    references_of,
    settings_of,
    stated_altitude,
)
from heimdall_lab.core.checked import ConfigError
from heimdall_lab.core.files import check_writable, make_folder, write_files
from heimdall_lab.core.text import json_records, quoted
from heimdall_lab.datasets.manifest import MANIFEST
from heimdall_lab.localization.methods import METHODS, NEEDING_IQ, unfit_methods

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

_BAR_LENGTH = 24  # characters of the longest bar
_PATHS = {"propagation", "path_delay_sigma_s"}
_OTHER_PATHS = "--set propagation=… and path_delay_sigma_s=… say otherwise."
_FEW_FIXES = 3  # of which each has its sentences below the table

_References = Annotated[
    list[str] | None,
    typer.Option(
        help="Of SigMF recordings: the known place of the transmitter of a frequency in Hz, as 98.5e6=45.03,7.27; "
        "repeatable.",
        metavar="FREQ=LAT,LON[,ALT]",
    ),
]
_Strict = Annotated[
    bool, typer.Option("--strict", help="Leave out no station of recordings that contradicts the others.")
]


def locate(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Folder of a dataset, SigMF collection, recordings or archives, WAV files, or LocaRDS table."
        ),
    ],
    kiwi: Annotated[
        bool, typer.Option("--kiwi", help="The paths are KiwiSDR recordings, and an error if they are others.")
    ] = False,
    receivers: Annotated[
        Path | None,
        typer.Option(
            help="Of recordings: CSV of name, latitude_deg, longitude_deg; of a table: that of its sensors.",
            metavar="CSV",
        ),
    ] = None,
    transmitter: Annotated[
        str | None, typer.Option(help="Of recordings: the true position, to show the error.", metavar="LAT,LON")
    ] = None,
    reference: _References = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Of recordings: what the files do not tell, as propagation=sky_wave, path_delay_sigma_s=1e-4 or "
            "clock_sigma_s=1e-3; repeatable.",
        ),
    ] = None,
    blind: Annotated[
        bool,
        typer.Option(
            "--blind", help="Find the clocks of the receivers by what they hear, with the positions (tdoa_joint)."
        ),
    ] = False,
    method: Annotated[
        str | None,
        typer.Option(
            help=f"One of {', '.join(METHODS)}, or the path of an .onnx file; by default tdoa_ls, and tdoa_joint with "
            "--reference or --blind."
        ),
    ] = None,
    altitude: Annotated[
        str | None,
        typer.Option(
            help="Of the transmitter above the ellipsoid, m, with its standard deviation; by default near the ground.",
            metavar="9000+-3000",
        ),
    ] = None,
    terrain: Annotated[
        Path | None,
        typer.Option(help="Folder of SRTM or GeoTIFF tiles, which say how high the ground is.", metavar="FOLDER"),
    ] = None,
    window: Annotated[
        float | None, typer.Option(help="Of recordings: cut them into windows of so many seconds.", metavar="SECONDS")
    ] = None,
    at: Annotated[
        list[float] | None,
        typer.Option(help="Of recordings: where a window begins, s from the first common sample; repeatable."),
    ] = None,
    strict: _Strict = False,
    as_json: Json = False,
) -> None:
    """Locate the transmitter of every scene, of SigMF, KiwiSDR or other WAV recordings, or of every row of a table."""
    from heimdall_lab.cli import locatable
    from heimdall_lab.localization import estimators, sentences, stations, tables
    from heimdall_lab.localization.altitude import with_altitude
    from heimdall_lab.signals.measurements import with_measurements

    if blind and method not in (None, "tdoa_joint"):
        raise ConfigError(f"blind: {quoted(method)} does not find clocks, tdoa_joint does; leave out one of both")
    method = method_name("method", method or ("tdoa_joint" if blind or reference else "tdoa_ls"))
    stated, known = stated_altitude(altitude), settings_of(settings or [], "name=value")
    cut = {"window_s": window, "at": at or None, "strict": strict, "transmitter": position(transmitter)}
    kind = locatable.kind_of(paths, kiwi=kiwi)
    dataset = locatable.read(paths, kind, receivers, cut, references_of(reference or []), known, kiwi=kiwi)
    recorded = kind in locatable.RECORDINGS
    dataset = with_measurements(dataset if stated is None else with_altitude(dataset, *stated))
    dataset = dataset if strict else stations.without_bad_stations(dataset)
    if terrain is not None:
        dataset = estimators.with_ground(dataset, method, terrain)
    fixes = estimators.locate_measured(dataset, method)
    joint = _joint(dataset, method)
    if as_json:
        rows = _fix_rows(dataset, fixes)
        rows += [] if joint is None else [{"joint": True, **row} for row in _fix_rows(*joint)]
        print(json.dumps(rows, indent=1))
        return
    table = tables.fix_table(dataset, fixes)
    print_table(table, as_json)
    print("\n" + _fix_sentences(dataset, fixes))
    about = sentences.references_sentence, sentences.left_out_sentence, sentences.noise_sentence
    for say in (*about, sentences.clocks_sentence):
        if said := say(dataset):
            print(said)
    if method == "tdoa_joint":
        print(sentences.solved_clocks_sentence(hl.clocks(dataset, strict=True), fixes))
    if recorded or kind == "table":
        print(sentences.paths_sentence(dataset) + ("" if set(known) >= _PATHS else f" {_OTHER_PATHS}"))
    if joint is None:
        for sample in fixes["sample"].values.tolist() if len(table) <= _FEW_FIXES else []:
            _print_budget(tables.budget_table(dataset, fixes, sample), f" of {sample}" if len(table) > 1 else "")
    else:
        _print_joint(*joint)
    if recorded:
        if len(table) > 1 and (joint is not None or "centre_frequency" not in dataset):
            print(f"\n{sentences.JOINED}")
        print("\nMeasured time differences, with the standard deviation by noise, and with clock and path besides:")
        print_table(tables.difference_table(dataset), as_json)


def clocks(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Folder of a dataset, SigMF collection, recordings or archives, or LocaRDS table."),
    ],
    receivers: Annotated[
        Path | None, typer.Option(help="Of recordings and tables: CSV of receivers or sensors.", metavar="CSV")
    ] = None,
    reference: _References = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="As of locate; repeatable, as clock_sigma_s=1e-2.")
    ] = None,
    strict: _Strict = False,
    as_json: Json = False,
) -> None:
    """Say how far the receivers' clocks are apart in each recording, as known and unknown transmitters tell it."""
    from heimdall_lab.cli import locatable
    from heimdall_lab.localization import sentences, tables

    known, kind = settings_of(settings or [], "name=value"), locatable.kind_of(paths, kiwi=False)
    dataset = locatable.read(paths, kind, receivers, {"strict": strict}, references_of(reference or []), known)
    found = hl.clocks(dataset, strict=strict)
    print_table(tables.clock_table(found), as_json)
    if not as_json:
        print("\n" + sentences.solved_clocks_sentence(found))


def _joint(dataset: "xr.Dataset", method: str) -> "tuple[xr.Dataset, xr.Dataset] | None":
    """Windows of each emission as one, and their joint fix; None of single windows.

    Methods that need signals have none of several windows together: that fix is by least squares of the delays.
    """
    from heimdall_lab.localization import estimators
    from heimdall_lab.localization.windows import emission_numbers, join_windows

    samples = dataset.sizes["sample"]
    if "config" in dataset.attrs or "recording" not in dataset or samples < 2:
        return None
    if len(set(emission_numbers(dataset).tolist())) == samples and samples > len(set(dataset["recording"].values)):
        return None
    joined = join_windows(dataset, strict=True)  # which are left out already
    delays_do = method in METHODS and method not in NEEDING_IQ
    return joined, estimators.locate_measured(joined, method if delays_do else "tdoa_ls")


def _print_joint(joined: "xr.Dataset", fixes: "xr.Dataset") -> None:
    """Print the fixes of all windows of each recording together."""
    from heimdall_lab.localization import tables

    print(f"\nJoint fix of all windows by {fixes.attrs['method']}:")
    print_table(tables.fix_table(joined, fixes), as_json=False)
    print("\n" + _fix_sentences(joined, fixes))
    for sample in fixes["sample"].values.tolist()[:_FEW_FIXES]:
        _print_budget(tables.budget_table(joined, fixes, sample), " of all windows")


def _fix_rows(dataset: "xr.Dataset", fixes: "xr.Dataset") -> list[dict[str, Any]]:
    """Rows of the table of fixes as JSON values, with all else that is known of each."""
    from heimdall_lab.localization import sentences, tables
    from heimdall_lab.localization.remedies import remedies

    differences, found = tables.difference_table(dataset), remedies(dataset, fixes)
    rows = json_records(tables.fix_table(dataset, fixes))
    for index, row in enumerate(rows):
        fix = fixes.isel(sample=index)
        row |= tables.fix_record(dataset, fix)
        row["remedy"] = None if (remedy := found[index]) is None else remedy._asdict()
        row["rivals"] = [rival._asdict() for rival in sentences.rivals(fix)]
        own = differences[differences["sample"] == row["sample"]].drop(columns="sample")
        row["time_differences"] = json_records(own)
    return rows


def _fix_sentences(dataset: "xr.Dataset", fixes: "xr.Dataset") -> str:
    """What is said of each of a few fixes, or of all of many together."""
    from heimdall_lab.localization.sentences import (
        budget_sentence,
        remedy_sentence,
        status_sentence,
        summary_sentence,
    )

    samples = fixes["sample"].values.tolist()
    if len(samples) > _FEW_FIXES:
        return summary_sentence(dataset, fixes)
    of_each = (status_sentence, budget_sentence, remedy_sentence)
    said = [" ".join(filter(None, (say(dataset, fixes, sample) for say in of_each))) for sample in samples]
    return "\n".join(said if len(said) == 1 else [f"{name}: {text}" for name, text in zip(samples, said, strict=True)])


def _print_budget(budget: "pd.DataFrame", of: str) -> None:
    """Print what the uncertainty of a fix is made of, if that is known."""
    if len(budget):
        print(f"\nError budget{of}: rms error by cause, whose squares add up, and the receiver that adds most to each:")
        lengths = (_BAR_LENGTH * budget.rms_error_m / budget.rms_error_m.max()).round().astype(int)
        print_table(
            budget.assign(bar=["█" * length + " " * (_BAR_LENGTH - length) for length in lengths]), as_json=False
        )


def features(
    folder: Folder,
    out: Annotated[
        Path | None, typer.Option(help="Also write features, spectrograms and differences.", metavar="NC")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure the features of every receiver's signal, and show how each is spread."""
    from heimdall_lab.datasets.netcdf import write_netcdf
    from heimdall_lab.signals.features import summary

    if out is not None:
        check_writable(out, "out")
    measured = hl.features(hl.open_dataset(folder))
    if out is not None:
        write_files({out: lambda path: write_netcdf(measured, path)}, needed_bytes=measured.nbytes)
    table = summary(measured)
    if not as_json:
        table = table.map(lambda value: f"{value:.4g}" if isinstance(value, float) else value)
    print_table(table, as_json)
    if out is not None and not as_json:
        print(f"Features, spectrograms and differences: {out}")


def compare(
    folder: Folder,
    methods: Annotated[
        str | None,
        typer.Option(help=f"Comma-separated, by default all of {', '.join(METHODS)}; paths of .onnx files too."),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option("--pretrained", help="Add the trained localizers of this package, where they fit."),
    ] = False,
    split: Annotated[
        str | None, typer.Option(help="Only the scenes of training, validation or test: train, validation, test.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Also write an HTML report.", metavar="HTML")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write leaderboard.nc and leaderboard.csv, with bins.", metavar="DIR")
    ] = None,
    verify: Verify = True,
    as_json: Json = False,
) -> None:
    """Rank methods on a dataset, against the truth and the Cramér-Rao bound."""
    from heimdall_lab.datasets import integrity, splits
    from heimdall_lab.localization import compared_methods, leaderboard

    names = None if methods is None else [method_name("methods", name) for name in methods.split(",")]
    if split is not None:
        split = known_name("split", split, list(splits.SHARES))
    if report is not None:  # before the work, which would be lost without this extra
        from heimdall_lab.report.page import output as report_output
    if out is not None:
        _check_folder(out)
    if report is not None:
        check_writable(report, "report")
    dataset = hl.open_dataset(folder)
    dataset = dataset if split is None else splits.select(dataset, split)
    classical = hl.methods(dataset)
    added, unfit = _pretrained(dataset) if pretrained else ([], {})
    if verify:
        integrity.check_origin(dataset, progress=True)
    board = hl.compare(dataset, [*(classical if names is None else names), *added], verify=False)
    outputs = {} if out is None else leaderboard.output(board, out)
    outputs |= {} if report is None else report_output(dataset, board, report)
    if outputs:
        write_files(outputs, "out" if report is None else "report" if out is None else "out, report", board.nbytes)
    failed = compared_methods.failures(board)  # which the log has named
    if as_json:
        print_table(leaderboard.leaderboard_table(board).reset_index(), as_json)
        raise typer.Exit(1 if failed else 0)
    print(leaderboard.leaderboard_text(board))
    for name, reason in ((unfit_methods(dataset) if names is None else {}) | unfit).items():
        print(f"Left out: {name}; {reason}")
    if report is not None:
        print(f"Report: {report}")
    if out is not None:
        print(f"Leaderboard with bins of SNR, GDOP and receivers: {out / 'leaderboard.nc'}, {out / 'leaderboard.csv'}")
    raise typer.Exit(1 if failed else 0)


def _check_folder(out: Path) -> None:
    """Make a folder for results, before the work that they are of."""
    if (out / MANIFEST).exists() or (out.exists() and not out.is_dir()):
        kind = "a dataset" if out.is_dir() else "a file"
        raise ConfigError(f"out: {quoted(out)} is {kind}; name another folder for the leaderboard")
    make_folder(out)
    check_writable(out / "leaderboard.nc", "out")


def _pretrained(dataset: "xr.Dataset") -> tuple[list[Path], dict[str, str]]:
    """Files of the localizers of this package that can locate in a dataset, and why others cannot, by name."""
    from heimdall_lab.localization import learned

    files = learned.pretrained()
    if not files:
        raise ConfigError("pretrained: no trained localizers came with this package; install it again, or leave it out")
    reasons = learned.incompatibilities({name: learned.predictor(path) for name, path in files.items()}, dataset)
    return [path for name, path in files.items() if name not in reasons], reasons
