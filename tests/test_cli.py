import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from height_tiles import SIZE, write_hgt
from stated_fixes import PLACE, valley
from wav_recordings import hdsdr_bytes

import heimdall_lab as hl
from heimdall_lab.core import geodesy
from heimdall_lab.core.presets import PRESETS
from heimdall_lab.datasets import schema
from heimdall_lab.learning.trained import save
from heimdall_lab.localization import learned
from heimdall_lab.localization.observations import STATUS

BASE = ["--preset", "los_sync", "--num-samples", "6", "--set", "signal.duration_s=0.02"]


@pytest.fixture
def run(attempt):
    """Run a command that must succeed."""

    def run(*arguments):
        done = attempt(*arguments)
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def refused(attempt):
    """Run a command that must fail with one line on standard error, and return that line."""

    def refused(status, *arguments):
        done = attempt(*arguments)
        assert (done.returncode, done.stdout) == (status, "")
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1, done.stderr
        return lines[0]

    return refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "los"
    arguments = ["generate", *BASE, "--seed", "7", "--shard-size", "4", "--out", str(out)]
    subprocess.run([sys.executable, "-m", "heimdall_lab.cli", *arguments], check=True, capture_output=True)
    return out


def test_every_command_has_help(run):
    listed = run("--help").stdout
    for command in ("generate", "datasets", "verify", "locate", "compare", "export"):
        assert re.search(rf"^\s+{command}\s+\S", listed, re.MULTILINE)
        assert "Usage:" in run(command, "--help").stdout


def test_generate_says_what_it_made_and_reports_plain_lines(run, tmp_path):
    done = run("generate", *BASE, "--shard-size", 3, "--out", tmp_path / "a")
    assert re.fullmatch(r".*a: 6 scenes in 2 shards, \d+\.\d\d% of the drawn ones kept \(.*\)\n", done.stdout)
    about, *lines = done.stderr.splitlines()
    assert re.fullmatch(r"los_sync: backend (numpy|cupy) \(.*\), at most \d+ kB to write", about)
    assert [" ".join(line.split()[:2]) for line in lines] == [
        "los_sync: 3/6",
        "los_sync: 6/6",
    ]
    assert "\x1b" not in done.stderr


def test_set_reaches_every_field(folder):
    manifest = json.loads((folder / "dataset.json").read_text())
    config = manifest["config"]
    assert (config["signal"]["duration_s"], config["seed"], config["shard_size"], config["num_samples"]) == (
        0.02,
        7,
        4,
        6,
    )


def test_datasets_and_verify_print_tables_and_json(run, folder):
    assert "los_sync" in run("datasets", folder.parent).stdout
    row = json.loads(run("datasets", folder.parent, "--json").stdout)[0]
    assert (row["path"], row["samples"]) == (str(folder), 6)
    assert [row["state"] for row in json.loads(run("verify", folder, "--json").stdout)] == ["ok", "ok"]


def test_the_list_says_why_a_dataset_is_unreadable(run, tmp_path):
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "dataset.json").write_text('{"format": 99, "package_version": "9.0.0"}')
    done = run("datasets", tmp_path)
    assert "unreadable" in done.stdout
    assert "later/dataset.json: was written by version 9.0.0 in format 99, and this version " in done.stderr


def test_a_folder_without_datasets_says_so(run, tmp_path):
    assert run("datasets", tmp_path).stdout == f"{tmp_path}: holds no datasets; 'heimdall-lab generate' makes some\n"
    assert json.loads(run("datasets", tmp_path, "--json").stdout) == []


def test_locate_prints_a_fix_with_error_and_bound_for_each_scene(run, folder):
    rows = json.loads(run("locate", folder, "--method", "tdoa_robust", "--json").stdout)
    assert [row["sample"] for row in rows] == [0, 1, 2, 3, 4, 5]
    for row in rows:
        assert row["error_m"] < 10 * row["crlb_rmse_m"]
        assert row["covariance_m2"][0][0] == pytest.approx(row["sigma_east_m"] ** 2, rel=0.1)
        assert len({d["later_than"] for d in row["time_differences"]}) == 1
        assert len({d["receiver"] for d in row["time_differences"]}) == len(row["time_differences"]) >= 3
    header, *table, blank, summary = run("locate", folder).stdout.splitlines()
    assert (len(table), blank) == (6, "")
    assert {"converged", "status", "checked", "misfit", "crlb_rmse_m"} <= set(header.split())
    assert summary.startswith("6 of 6 scenes have a fix (")


def test_references_of_recordings_are_marked_and_left_out(run, tmp_path):
    size = "--num-samples", "8", "--set", "signal.duration_s=0.02", "--set", "data_type=feature_based"
    run("generate", "--preset", "websdr_reference", *size, "--out", tmp_path / "data")
    located = run("locate", tmp_path / "data", "--method", "rss_ml")
    assert "2 of 8 scenes are references" in located.stdout
    rows = json.loads(run("locate", tmp_path / "data", "--method", "rss_ml", "--json").stdout)
    assert [row["reference"] for row in rows] == [True, False, False, False] * 2
    assert [row["error_m"] is None for row in rows] == [True, False, False, False] * 2
    compared = run("compare", tmp_path / "data", "--methods", "rss_ml,tdoa_ls", "--out", tmp_path / "board")
    assert "Left out: 2 references, whose positions are known beforehand." in compared.stdout
    assert "Bounds are joint: emissions of a recording share clocks" in compared.stdout
    assert "nan" not in compared.stdout
    table = pd.read_csv(tmp_path / "board" / "leaderboard.csv")
    assert set(table[table["by"] == "all"].samples) == {6}


def test_locate_says_of_a_fix_what_it_is_worth(run, monkeypatch):
    monkeypatch.setattr(hl, "open_dataset", lambda _: valley())
    text = run("locate", "valley").stdout
    assert "tdoa_ls found this place, checked weakly: a fault of one receiver" in text
    assert "; assuming near the ground (2,100 ± 1,900 m)." in text
    (row,) = json.loads(run("locate", "valley", "--json").stdout)
    assert (row["status"], row["converged"], row["checked"], row["rivals"]) == ("ok", True, "weakly", [])
    assert row["misfit"] < 10
    assert row["undetected_m"] > 100
    assert row["altitude_sigma_m"] > 100
    total_m = sum(value**2 for value in row["budget_m"].values()) ** 0.5
    assert total_m == pytest.approx((row["covariance_m2"][0][0] + row["covariance_m2"][1][1]) ** 0.5)
    assert row["budget_m"]["noise"] > row["budget_m"]["paths"] == 0
    by_receiver = sum(parts["noise"] ** 2 for parts in row["receiver_budget_m"].values()) ** 0.5
    assert by_receiver == pytest.approx(row["budget_m"]["noise"])
    words = row["remedy"]["words"]
    assert f"{words[0].upper()}{words[1:]} would make it " in text
    header, *causes = text.split("adds most to each:\n")[1].splitlines()
    assert header.split() == ["cause", "rms_error_m", "share_percent", "most_by", "bar"]
    assert causes[0].split()[0] == max(row["budget_m"], key=row["budget_m"].get)
    assert causes[-1].split()[:2] == ["in", "all"]
    longest, total_m = causes[-1].count("█"), sum(value**2 for value in row["budget_m"].values()) ** 0.5
    assert causes[0].count("█") == pytest.approx(longest * max(row["budget_m"].values()) / total_m, abs=0.6)


def test_locate_says_why_there_is_no_fix(run, monkeypatch):
    monkeypatch.setattr(hl, "open_dataset", lambda _: valley(late_s=60e-6))
    text = run("locate", "valley").stdout
    assert re.search(r"No fix by tdoa_ls: .*; the best candidate is 4\d\.\d{4}° N 7\.\d{4}° E\.", text)
    (row,) = json.loads(run("locate", "valley", "--json").stdout)
    assert not row["converged"]
    assert row["status"] in set(STATUS) - {"ok"}


@pytest.mark.parametrize("altitude", ["300+-20", "300±20", "300 +/- 20"])
def test_an_altitude_that_is_given_takes_the_place_of_the_ground(run, monkeypatch, altitude):
    monkeypatch.setattr(hl, "open_dataset", lambda _: valley())
    (row,) = json.loads(run("locate", "valley", "--altitude", altitude, "--json").stdout)
    assert row["altitude_sigma_m"] == pytest.approx(20, rel=0.05)
    assert row["budget_m"]["altitude"] < 20
    distance_m, _ = geodesy.geodesic(row["latitude_deg"], row["longitude_deg"], *PLACE)
    assert distance_m < 20
    assert "assuming" not in run("locate", "valley", "--altitude", altitude).stdout


def test_tiles_say_how_high_the_ground_is(run, refused, monkeypatch, tmp_path):
    monkeypatch.setattr(hl, "open_dataset", lambda _: valley())
    assert f"terrain folder: {str(tmp_path)!r} holds no tile" in refused(1, "locate", "valley", "--terrain", tmp_path)
    write_hgt(tmp_path, "N45E007", np.full((SIZE, SIZE), 430))
    assert "assuming near the ground (430 ± 100 m)" in run("locate", "valley", "--terrain", tmp_path).stdout


def test_an_altitude_that_is_none_is_refused(refused, folder):
    for altitude in ("high", "9 km", "9000-3000", "nan"):
        line = refused(2, "locate", folder, "--altitude", altitude)
        assert f"altitude: {altitude!r} is no altitude in metres, as 9000, or 9000+-3000" in line


def test_features_are_shown_and_written(run, refused, folder, tmp_path):
    text = run("features", folder, "--out", tmp_path / "features.nc").stdout
    rows = json.loads(run("features", folder, "--json").stdout)
    assert len(rows) == 18
    assert all(row["feature"] in text for row in rows)
    (snr,) = (row for row in rows if row["feature"] == "snr_db")
    assert snr["lowest"] < snr["p5"] < snr["median"] < snr["p95"] < snr["highest"]
    with xr.open_dataset(tmp_path / "features.nc") as stored:
        assert dict(stored["spectrogram"].sizes) == {"sample": 6, "receiver": 7, "frequency": 128, "frame": 32}
        assert set(schema.MEASURED) < set(stored)
    assert "out: cannot write" in refused(1, "features", folder, "--out", tmp_path / "nowhere" / "features.nc")


@pytest.mark.slow
def test_datasets_of_features_are_compared_and_located_without_iq(run, refused, tmp_path):
    out = tmp_path / "features"
    run("generate", *BASE, "--set", "data_type=feature_based", "--out", out)
    text = run("compare", out, "--report", tmp_path / "report.html", "--out", tmp_path / "board").stdout
    assert "tdoa_robust" in text
    assert "Left out: dpd" in text
    assert not any(line.startswith("dpd") for line in text.splitlines())
    assert {path.name for path in (tmp_path / "board").iterdir()} == {"leaderboard.nc", "leaderboard.csv"}
    assert "Around the transmitter" in (tmp_path / "report.html").read_text()
    assert len(json.loads(run("locate", out, "--json").stdout)) == 6
    assert "iq" in refused(1, "locate", out, "--method", "dpd")


def test_pretrained_localizers_are_compared_where_they_fit(run, refused, onnx_file, folder, tmp_path, monkeypatch):
    out = tmp_path / "faster"
    run("generate", *BASE, "--set", "signal.sample_rate_hz=60e3", "--out", out)
    monkeypatch.setattr(learned, "pretrained", lambda: {"triangulation_small": onnx_file})
    rows = json.loads(run("compare", folder, "--methods", "tdoa_ls", "--pretrained", "--json").stdout)
    assert {row["method"] for row in rows} == {"tdoa_ls", "triangulation"}
    text = run("compare", out, "--pretrained").stdout
    assert "Left out: triangulation_small; sample_rate_hz: is 60000" in text
    assert not any(line.startswith("triangulation") for line in text.splitlines())
    monkeypatch.setattr(learned, "pretrained", dict)
    assert "pretrained: no trained localizers came" in refused(2, "compare", folder, "--pretrained")


def test_compare_ranks_every_method_and_writes_the_report(run, folder, tmp_path):
    report = tmp_path / "report.html"
    text = run("compare", folder, "--report", report).stdout
    for method in ("centroid", "strongest", "tdoa_ls", "tdoa_robust"):
        assert method in text
        assert method in report.read_text()
    rows = json.loads(run("compare", folder, "--methods", "tdoa_ls", "--json").stdout)
    assert [row["method"] for row in rows] == ["tdoa_ls"]


def test_unusable_configurations_are_usage_errors(refused, tmp_path):
    out = ["--out", tmp_path / "x"]
    assert "'nosuch'" in refused(2, "generate", "--preset", "nosuch", *out)
    line = refused(2, "generate", *BASE, "--set", "signal.channel_bandwidth_hz=-12500", *out)
    assert "signal.channel_bandwidth_hz: -12500" in line
    assert "max_receivers: 16" in refused(2, "generate", *BASE, "--set", "max_receivers=16", *out)
    assert "path.to.field=value" in refused(2, "generate", *BASE, "--set", "seed", *out)
    assert "--preset NAME or --config" in refused(2, "generate", *out)
    assert "gate.min_mean_snr_db" in refused(2, "generate", *BASE, "--set", "gate.min_mean_snr_db=90", *out)
    assert not (tmp_path / "x" / "shard-00000.nc").exists()


def test_network_of_sixteen_receivers_is_refused(refused, tmp_path):
    network = tmp_path / "network.csv"
    network.write_text("name,latitude_deg,longitude_deg\n" + "".join(f"R{i},{45 + i / 100},7\n" for i in range(16)))
    line = refused(2, "generate", *BASE, "--set", f"geometry.receivers={network}", "--out", tmp_path / "x")
    assert "geometry.receivers" in line
    assert "15" in line


def test_unusable_folders_are_refused(refused, folder, tmp_path):
    line = refused(1, "generate", *BASE, "--seed", 8, "--shard-size", 4, "--out", folder)
    assert "another seed" in line
    assert "choose another folder" in line
    file = tmp_path / "file"
    file.write_text("")
    assert "choose a folder that you may write to" in refused(1, "generate", *BASE, "--out", file / "inside")
    assert "dataset.json" in refused(1, "locate", tmp_path)
    assert "nowhere" in refused(1, "datasets", tmp_path / "nowhere")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs a file system that refuses even root")
def test_unwritable_folder_is_refused(refused):
    line = refused(1, "generate", *BASE, "--out", "/proc/dataset")
    assert "out: cannot write to '/proc/dataset'" in line


def test_truncated_shard_is_named_by_verify_and_by_its_readers(attempt, refused, folder, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    os.truncate(damaged / "shard-00001.nc", 2000)
    done = attempt("verify", damaged)
    assert done.returncode == 1
    assert "has 2000 bytes instead of" in done.stdout
    assert len(done.stderr.strip().splitlines()) == 1
    assert "shard-00001.nc" in done.stderr
    assert "run the same 'generate' command" in done.stderr
    line = refused(1, "compare", damaged)
    assert "shard-00001.nc: has 2000 bytes" in line


@pytest.mark.slow
def test_compare_says_how_long_checksums_took_and_can_leave_them_out(run, attempt, folder, tmp_path):
    compare = ("compare", "--methods", "centroid")
    line = r"verify los_sync: 2/2 checksums are right: \d+ kB in \d+\.\d s"
    assert any(re.fullmatch(line, each) for each in run(*compare, folder).stderr.splitlines())
    assert "verify" not in run(*compare, folder, "--no-verify").stderr
    shutil.copytree(folder, tmp_path / "changed")
    shard = tmp_path / "changed" / "shard-00001.nc"
    content = bytearray(shard.read_bytes())
    content[-3000] ^= 1
    shard.write_bytes(content)
    done = attempt(*compare, tmp_path / "changed", "--out", tmp_path / "board")
    assert done.returncode == 1
    assert "shard-00001.nc: has another checksum; run the same 'generate' command" in done.stderr.splitlines()[-1]
    assert list((tmp_path / "board").iterdir()) == []


def test_unknown_method_lists_the_known_ones(refused, folder):
    assert "method: 'guess' is unknown; choose one of centroid" in refused(2, "locate", folder, "--method", "guess")
    assert "methods: 'guess' is unknown" in refused(2, "compare", folder, "--methods", "tdoa_ls, guess")
    assert "backend: 'abacus'" in refused(2, "generate", *BASE, "--backend", "abacus", "--out", folder)


def test_report_that_cannot_be_written_is_refused_before_the_work(refused, folder, tmp_path):
    for target in (tmp_path, tmp_path / "nowhere" / "report.html", "/proc/report.html"):
        assert f"report: cannot write '{target}'" in refused(1, "compare", folder, "--report", target)


def test_true_position_belongs_to_recordings(refused, folder):
    assert "--kiwi" in refused(2, "locate", folder, "--transmitter", "45,7")
    assert "LAT,LON" in refused(2, "locate", "--kiwi", folder, "--receivers", folder, "--transmitter", "north")


def test_real_recording_is_located_within_five_kilometres(run, refused, real):
    kiwi = real / "kiwisdr_dcf77_2020"
    files = sorted(kiwi.glob("*.wav"))
    shared = ["--kiwi", *files, "--receivers", kiwi / "receivers.csv", "--transmitter", "50.0152,9.0112"]
    text = run("locate", *shared).stdout
    assert "sigma_east_m" in text
    assert "later_than" in text
    (fix,) = json.loads(run("locate", *shared, "--json").stdout)
    assert fix["error_m"] < 2500  # 1.7 km
    assert fix["converged"]
    assert len(fix["time_differences"]) == 2
    assert "at least 3 receivers" in refused(1, "locate", "--kiwi", *files[:2], "--receivers", kiwi / "receivers.csv")
    assert "--receivers" in refused(2, "locate", "--kiwi", *files)


@pytest.fixture
def waves(tmp_path):
    """WAVs of three stations, and the table of their positions."""
    table, files = tmp_path / "stations.csv", []
    table.write_text(
        "name,latitude_deg,longitude_deg\nnorth,46.0001,7.0001\neast,45.0001,8.0001\nwest,45.0001,6.0001\n"
    )
    rng = np.random.Generator(np.random.Philox(6))
    for name in ("north", "east", "west"):
        files.append(tmp_path / f"{name}_HDSDR_20160101_231914Z_433920kHz_RF.wav")
        files[-1].write_bytes(
            hdsdr_bytes(lambda t: 0.1 * rng.standard_normal((len(t), 2)) @ [1, 1j], 12_000, seconds=0.1)
        )
    return files, table


def test_wavs_are_located_with_clocks_that_are_said(run, refused, waves):
    files, table = waves
    done = run("locate", *files, "--receivers", table)
    assert "No fix by tdoa_ls" in done.stdout
    assert "Clocks (start time by a PC, to 0.001 s) count as good to 20 ms, 6,000 km of path" in done.stdout
    done = run("locate", *files, "--receivers", table, "--set", "clock_sigma_s=1e-6")
    assert "count as good to 1.00 µs, 300 m of path.\n" in done.stdout
    assert "--receivers" in refused(2, "locate", *files)
    kiwi = [file.rename(file.with_name(f"20200813T065220Z_77500_{file.name.split('_')[0]}_iq.wav")) for file in files]
    assert "no GNSS stamps" in refused(1, "locate", "--kiwi", *kiwi, "--receivers", table)


def test_recordings_are_imported(run, refused, waves, tmp_path):
    files, _ = waves
    raw = tmp_path / "torino.cu8"
    raw.write_bytes(bytes(range(200)))
    out = tmp_path / "sigmf"
    done = run("import", *files, "--out", out)
    assert done.stdout.splitlines() == [f"{file}: {out / file.stem}.sigmf-meta" for file in files]
    run(
        "import",
        raw,
        "--out",
        out,
        "--rate",
        "2.4e6",
        "--frequency",
        "433.92e6",
        "--position",
        "45.1,7.2,230",
        "--name",
        "t",
    )
    about = json.loads((out / "t.sigmf-meta").read_text())
    assert about["global"]["core:sample_rate"] == 2.4e6
    assert about["global"]["core:geolocation"]["coordinates"] == [7.2, 45.1, 230]
    assert about["captures"][0]["core:frequency"] == 433.92e6
    assert "exists" in refused(1, "import", files[0], "--out", out)
    run("import", files[0], "--out", out, "--overwrite")
    assert "start: is of one recording, but 3 are given" in refused(
        2, "import", *files, "--start", "2024-05-01T12:00:00Z"
    )
    assert "position: 'here' is not of the form LAT,LON" in refused(2, "import", raw, "--position", "here")
    assert "sample_rate_hz: is None" in refused(1, "import", raw, "--out", out)


def test_command_is_installed_and_shows_no_traceback(tmp_path):
    command = [str(Path(sys.executable).parent / "heimdall-lab"), "generate", "--preset", "nosuch", "--out", "x"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2
    assert done.stderr == f"heimdall-lab: preset: 'nosuch' is unknown; choose one of {', '.join(PRESETS)}\n"


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["train", "{}", "--architecture", "triangulation", "--out", "run"], "learn"),
        (["export", "{}"], "learn"),
        (["compare", "{}", "--report", "report.html"], "learn"),
        (["serve"], "app"),
    ],
)
def test_a_command_says_which_extra_it_lacks(arguments, extra, folder, tmp_path):
    """In a process that cannot import the extra's packages."""
    script = f"""
import sys
import heimdall_lab as hl
from heimdall_lab import cli
from heimdall_lab.core import extras
class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name in extras.EXTRAS[{extra!r}]:
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Lacking())
hl.compare = None  # the extra is missed before the work
cli.main()
"""
    command = [sys.executable, "-c", script, *(argument.format(folder) for argument in arguments)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(rf"heimdall-lab: \w+ is not installed; pip install 'heimdall-lab\[{extra}\]'\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def aircraft(tmp_path):
    """A LocaRDS table of one aircraft at 45.1° N 7.7° E, 10 km high, that does not say where, and its sensors'."""
    places = {1: (45.4, 7.6, 300), 2: (45.1, 8.2, 200), 3: (44.8, 7.5, 250), 4: (45.2, 7.1, 400), 5: (45.6, 8.4, 350)}
    there = geodesy.ecef(45.1, 7.7, 10_000.0)
    delays_ns = {n: geodesy.length(geodesy.ecef(*place) - there) / 0.299792458 for n, place in places.items()}
    received = json.dumps([[n, 1e9 + delay, 50 + n] for n, delay in delays_ns.items()])
    rows = "id,timeAtServer,aircraft,latitude,longitude,baroAltitude,geoAltitude,numMeasurements,measurements"
    (tmp_path / "set 1.csv").write_text(f'{rows}\n1,0.1,101,NA,NA,9950,10000,5,"{received}"\n')
    sensors = [f"{n},{','.join(map(str, place))},Radarcape" for n, place in places.items()]
    (tmp_path / "sensors.csv").write_text("\n".join(["serial,latitude,longitude,height,type", *sensors]))
    return tmp_path


def test_locate_reads_tables(run, refused, aircraft):
    table, sensors = aircraft / "set 1.csv", aircraft / "sensors.csv"
    row = json.loads(run("locate", table, "--receivers", sensors, "--json").stdout)[0]
    assert (row["latitude_deg"], row["longitude_deg"]) == pytest.approx((45.1, 7.7), abs=1e-4)
    assert row["altitude_m"] == pytest.approx(10_000, abs=25)
    text = run("locate", table, "--receivers", sensors, "--set", "path_delay_sigma_s=1e-6").stdout
    assert "with delays known to 1.00 µs" in text
    assert "--receivers SENSORS.csv" in refused(2, "locate", table)
    assert "sensors.csv is a table of receivers; give it by --receivers" in refused(2, "locate", sensors)
    assert "only recordings take it" in refused(2, "locate", table, "--receivers", sensors, "--window", 1)
    assert "one table at a time" in refused(2, "locate", table, table, "--receivers", sensors)
    unknown = aircraft / "bearings.csv"
    unknown.write_text("station,bearing\nA,30\n")
    said = refused(2, "locate", unknown, "--receivers", sensors)
    assert "bearings.csv is no table that can be located, with the columns bearing, station; give a LocaRDS" in said
    assert "cannot be read" in refused(2, "locate", aircraft / "none.csv", "--receivers", sensors)


def test_locate_names_the_command_for_what_a_folder_holds(refused, aircraft, tmp_path):
    command = f"heimdall-lab locate '{aircraft / 'set 1.csv'}' --receivers {aircraft / 'sensors.csv'}"
    assert refused(2, "locate", aircraft).endswith(f"is no dataset but holds a table; locate by: {command}")
    waves = tmp_path / "waves"
    waves.mkdir()
    (waves / "20200813T065220Z_77500_alpha_iq.wav").touch()
    for arguments in ([waves], [waves, "--receivers", aircraft / "sensors.csv"], ["--kiwi", waves]):
        said = refused(2, "locate", *arguments)
        assert f"heimdall-lab locate {waves}/*.wav --receivers STATIONS.csv" in said
    assert "give the stations' positions with --receivers" in refused(2, "locate", *waves.iterdir())
    (waves / "a.sigmf-meta").touch()
    assert f"heimdall-lab locate {waves}/*.sigmf-meta" in refused(2, "locate", waves)
    assert "is no dataset: dataset.json cannot be read" in refused(1, "locate", tmp_path / "nothing")


def test_export_then_locate_and_compare(run, refused, trained, small, tmp_path):
    """Ten of the scenes are of training and validation; the test split is compared without them."""
    run_folder, folder = tmp_path / "run", tmp_path / "dataset"
    run_folder.mkdir()
    save(trained, run_folder / "model.pt")
    hl.generate(small, folder, progress=False)
    file = run_folder / "model.onnx"
    done = run("export", run_folder, "--dataset", folder)
    about = rf"{re.escape(str(file))}: triangulation with [\d,]+ weights; differs from PyTorch by at most \S+ of .*\n"
    assert re.fullmatch(about, done.stdout)
    assert re.fullmatch(r"(measure los_sync: .*\n)+", done.stderr)
    fixes = json.loads(run("locate", folder, "--method", file, "--json").stdout)
    assert len(fixes) == 12
    everything = run("compare", folder, "--methods", f"tdoa_ls,{file}").stdout
    assert "Beware: triangulation was trained with" in everything
    test = json.loads(run("compare", folder, "--methods", f"tdoa_ls, {file}", "--split", "test", "--json").stdout)
    rows = {row["method"]: row for row in test}
    assert rows["triangulation"]["seen_percent"] == 0
    assert rows["triangulation"]["parameters"] == trained.num_parameters
    assert "choose one of train, validation, test" in refused(2, "compare", folder, "--split", "all")
    assert "there is no file" in refused(1, "locate", folder, "--method", tmp_path / "none.onnx")
    assert "there is no file" in refused(1, "export", tmp_path)
    assert "does not end in .onnx" in refused(2, "export", run_folder, "--out", tmp_path / "a.pt")
