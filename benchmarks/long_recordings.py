"""How much time and memory `heimdall-lab locate` takes of long recordings: processor seconds and peak memory.

Run: python benchmarks/long_recordings.py [folder], which needs some 300 MB for the recordings that it makes.
"""

import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from heimdall_lab.core import geodesy
from heimdall_lab.core.units import SPEED_OF_LIGHT

STATIONS = {"alpha": (45.012, 7.312), "bravo": (45.431, 7.723), "charlie": (44.823, 8.134)}
TRUTH = (45.103, 7.654)
BLOCK = 512


def signals(count: int, rate_hz: float, band_hz: float, shifts_hz: list[float]) -> list[np.ndarray]:
    """Band-limited noise (count, 2) int16 at each station, as late as its distance, at an SNR of 20 dB in the band."""
    random = np.random.default_rng(7)
    frequency_hz = np.fft.fftfreq(count, 1 / rate_hz)
    spectrum = random.standard_normal(count) + 1j * random.standard_normal(count)
    spectrum[np.abs(frequency_hz) > band_hz / 2] = 0
    found = []
    for place, shift_hz in zip(STATIONS.values(), shifts_hz, strict=True):
        delay_s = float(geodesy.geodesic(*place, *TRUTH)[0]) / SPEED_OF_LIGHT
        voltage = np.fft.ifft(spectrum * np.exp(-2j * np.pi * frequency_hz * delay_s))
        voltage *= np.exp(2j * np.pi * shift_hz / rate_hz * np.arange(count)) / voltage.std()
        noise = random.standard_normal((count, 2)) * np.sqrt(0.005 * rate_hz / band_hz)
        found.append(np.rint(3000 * (np.stack([voltage.real, voltage.imag], axis=-1) + noise)).astype("<i2"))
    return found


def write_sigmf(folder: Path) -> None:
    """Write three recordings of 3.3 s at 1 MS/s, whose stamps are whole seconds."""
    for (name, place), samples in zip(
        STATIONS.items(), signals(3_300_000, 1e6, 200e3, [0.0, 12.0, -31.0]), strict=True
    ):
        (folder / f"{name}.sigmf-data").write_bytes(samples.tobytes())
        point = {"type": "Point", "coordinates": [*reversed(place), 0.0]}
        capture = {"core:sample_start": 0, "core:frequency": 145e6, "core:datetime": "2026-03-01T12:00:00Z"}
        about = {"core:datatype": "ci16_le", "core:version": "1.2.0", "core:sample_rate": 1e6}
        meta = {"global": about, "captures": [{**capture, "core:geolocation": point}], "annotations": []}
        (folder / f"{name}.sigmf-meta").write_text(json.dumps(meta))


def write_kiwi(folder: Path, duration_s: float) -> None:
    """Write three KiwiSDR recordings, stamped by GNSS every second, and their table of stations."""
    count = int(duration_s * 12_000) // BLOCK * BLOCK
    for name, samples in zip(STATIONS, signals(count, 12e3, 6e3, [0.0, 0.0, 0.0]), strict=True):
        chunks = [struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 2, 12_001, 48_004, 4, 16)]
        for block, part in enumerate(samples.reshape(-1, BLOCK, 2)):
            stamp_ns = round((300_000 + block * BLOCK / 12e3) * 1e9)
            age = block * 2 // 23 % 2
            chunks.append(struct.pack("<4sIBBII", b"kiwi", 10, age, 0, stamp_ns // 10**9, stamp_ns % 10**9))
            chunks.append(struct.pack("<4sI", b"data", 4 * BLOCK) + part.tobytes())
        body = b"WAVE" + b"".join(chunks)
        (folder / f"20260301T120000Z_77500_{name}_iq.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    rows = [f"{name},{latitude},{longitude}" for name, (latitude, longitude) in STATIONS.items()]
    (folder / "stations.csv").write_text("\n".join(["name,latitude_deg,longitude_deg", *rows]))


def measure(arguments: list[str]) -> tuple[float, float, str]:
    """Processor seconds, peak memory in MB, and what the command says."""
    command = [sys.executable, "-c", "from heimdall_lab.cli import main; main()", "locate", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"locate {' '.join(arguments)}: exit status {process.returncode}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3, said


def main() -> None:
    """Measure, and print a row for each."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as scratch:
        folder = Path(scratch)
        # By another process: what is started from one that was large counts as large.
        subprocess.run([sys.executable, __file__, "--write", scratch], check=True)
        truth = ["--transmitter", ",".join(map(str, TRUTH))]
        sigmf = [*map(str, sorted(folder.glob("*.sigmf-meta"))), *truth]
        waves = map(str, sorted(folder.glob("*.wav")))
        kiwi = ["--kiwi", *waves, "--receivers", str(folder / "stations.csv"), *truth]
        rows = {
            "3 × 3.3 s at 1 MS/s, stamps of whole seconds": sigmf,
            "3 × 10 min at 12 kHz, two windows and the joint fix": kiwi,
            "3 × 10 min at 12 kHz, windows of 10 s and the joint fix": [*kiwi, "--window", "10"],
        }
        for name, arguments in rows.items():
            seconds, megabytes, said = measure(arguments)
            print(f"{name}: {seconds:.1f} s of one core, {megabytes:.0f} MB", flush=True)
            print("\n".join(f"    {line[:150]}" for line in said.splitlines()[:4]), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        write_sigmf(Path(sys.argv[2]))
        write_kiwi(Path(sys.argv[2]), 600)
    else:
        main()
