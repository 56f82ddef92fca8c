"""What is measured of IQ, without any position.

- `spectra`: power spectra, bandwidths, and the accuracy that they allow. `correlation`: delays and frequency offsets.
- `pairs`: level, SNR, time and frequency differences of each receiver against the strongest one.
- `features`, from the `chunks` of a window: 18 numbers and a mel spectrogram for each receiver.
- `link_table`: features beside the truth, a row for each link.

A new feature is an entry of `datasets.schema.FEATURES` and a line in `features`.
"""
