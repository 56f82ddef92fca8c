"""What is measured of IQ: spectra, features of each receiver, time and frequency differences of pairs."""
