"""From one transmitted waveform to the int16 samples of every receiver: delay, oscillator, noise, AGC and ADC."""

import numpy as np

from heimdall_lab.arrays import Array, array_namespace, phasor
from heimdall_lab.philox import MAX_NORMAL, Stage, Streams
from heimdall_lab.units import ADC_MAX, db_to_linear

TAPER = 64  # samples faded at either end of a waveform, outside of what any receiver sees


def clock_bound_s(clock: str, sigma_s: float) -> float:
    """Largest magnitude of a clock error that `clock_offset` can draw, s."""
    return sigma_s * (3**0.5 if clock == "none" else MAX_NORMAL)


def clock_offset(clock: str, sigma_s: float, streams: Streams, num_receivers: int) -> Array:
    """Draw each receiver's clock error in s, (S, num_receivers): uniform for class ``none``, else normal."""
    if clock == "none":
        half_width = clock_bound_s(clock, sigma_s)
        return streams.uniform(Stage.CLOCK, num_receivers, -half_width, half_width)
    return sigma_s * streams.normal(Stage.CLOCK, num_receivers)


def taper(waveform: Array) -> Array:
    """Fade both ends of waveforms (..., N) to zero, so that their periodic continuation has no jump."""
    xp = array_namespace(waveform)
    rise = xp.sin(np.pi / 2 * (xp.arange(TAPER) + 0.5) / TAPER) ** 2
    window = xp.concatenate([rise, xp.ones(waveform.shape[-1] - 2 * TAPER), rise[::-1]]).astype(xp.float32)
    return waveform * window


def delay(waveform: Array, delay_samples: Array) -> Array:
    """Delay waveforms by fractions of a sample: a phase ramp over their spectrum, exact for periodic waveforms.

    Parameters
    ----------
    waveform : (S, N) complex64
    delay_samples : (S, R) float64

    Returns
    -------
    (S, R, N) complex64
        Circularly delayed.
    """
    xp = array_namespace(waveform)
    num_time = waveform.shape[-1]
    ramp = phasor(-delay_samples / num_time, num_time, start=-(num_time // 2))  # (S, R, N), frequency 0 in the middle
    spectrum = xp.fft.fft(waveform, axis=-1)[:, None, :] * xp.fft.ifftshift(ramp, axes=-1)
    return xp.fft.ifft(spectrum, axis=-1)


def receive(
    waveform: Array,
    *,
    arrival_samples: Array,
    frequency_offset_cycles: Array,
    received_power_dbm: Array,
    noise_power_dbm: float,
    streams: Streams,
    num_time: int,
    guard: int,
) -> Array:
    """Return what each receiver's analogue chain delivers, in √mW.

    Parameters
    ----------
    waveform : (S, N) complex64
        Unit power, N ≥ guard + num_time + TAPER. Its sample ``guard`` is the waveform's time 0.
    arrival_samples : (S, R)
        Local time at which the waveform's time 0 arrives, in samples, 0 … guard − TAPER.
    frequency_offset_cycles : (S, R)
        Oscillator error in cycles per sample.
    received_power_dbm : (S, R)
        −inf where there is no receiver.

    Returns
    -------
    (S, R, num_time) complex64
    """
    xp = array_namespace(waveform)
    delayed = delay(taper(waveform), arrival_samples)[..., guard : guard + num_time]
    num_receivers = arrival_samples.shape[-1]
    phase = xp.exp(2j * np.pi * streams.uniform(Stage.CARRIER_PHASE, num_receivers))
    amplitude = (xp.sqrt(db_to_linear(received_power_dbm)) * phase).astype(xp.complex64)
    noise = streams.complex_normal(Stage.NOISE, num_receivers * num_time).reshape(delayed.shape)
    noise_amplitude = xp.float32(db_to_linear(noise_power_dbm) ** 0.5)
    return delayed * phasor(frequency_offset_cycles, num_time) * amplitude[..., None] + noise_amplitude * noise


def convert(voltage: Array, headroom_db: float) -> tuple[Array, Array]:
    """Set each receiver's full scale from its rms level (AGC) and round to int16 (ADC).

    Parameters
    ----------
    voltage : (S, R, N) complex64, √mW
    headroom_db : float
        Full scale over the rms level.

    Returns
    -------
    iq : (S, R, 2, N) int16
        In-phase and quadrature; ``iq * full_scale / 32767`` is the voltage.
    full_scale : (S, R) float64, √mW
    """
    xp = array_namespace(voltage)
    rms = xp.sqrt((voltage.real**2 + voltage.imag**2).mean(axis=-1, dtype=xp.float64))
    full_scale = rms * 10 ** (headroom_db / 20)
    scaled = voltage * (ADC_MAX / full_scale)[..., None].astype(xp.float32)
    components = xp.stack([scaled.real, scaled.imag], axis=-2)
    return xp.clip(xp.rint(components), -ADC_MAX, ADC_MAX).astype(xp.int16), full_scale
