"""What is transmitted: voice, tones, data and noise.

`kinds` draws the kind of each scene and synthesizes its waveform, from `speech` (voice), `rhythm` (its pauses),
`packets` (AX.25) and `modulation` (FM and pulse trains). A new waveform is a synthesizer in `kinds`, named in ``KINDS``
and ``_SYNTHESIZERS``, and a ratio in `core.transmission.Signal`.
"""
