"""Simulated datasets: scenes, their propagation, waveforms and receivers, and how they are generated."""
