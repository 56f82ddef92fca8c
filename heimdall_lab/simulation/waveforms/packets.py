"""The line signal of a stream of AX.25 packets, as APRS sends them."""

import numpy as np

from heimdall_lab.core.compiled import njit
from heimdall_lab.core.philox import Stage, Streams

# Destination APRS-0 and source N0CALL-x: characters and station numbers are shifted left by one bit, and the last bit
# of the address is set; then control (UI) and protocol (no layer 3). Source: AX.25 2.2, sections 3.12, 4.2 and 4.3.
_HEADER = np.array([*(2 * np.frombuffer(b"APRS  ", np.uint8)), 0xE0, *(2 * np.frombuffer(b"N0CALL", np.uint8)), 0x61])
_HEADER = np.array([*_HEADER, 0x03, 0xF0], dtype=np.uint8)
_SOURCE_STATION = 13  # byte of the header that holds the source's station number
_FLAG = 0x7E
_NUM_FLAGS = 8  # before each frame
_INFORMATION = (20, 64)  # shortest length of the information field, and one more than the longest
_PRINTABLE = (0x20, 0x7F)
_DRAWS = 2 + _INFORMATION[1]  # of each frame: station, length, characters
_SHORTEST_BITS = 8 * (_NUM_FLAGS + len(_HEADER) + _INFORMATION[0] + 2)
_LONGEST_BITS = 8 * _NUM_FLAGS + 8 * (len(_HEADER) + _INFORMATION[1] + 2) * 6 // 5 + 1


def line_levels(streams: Streams, num_bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Write streams of packets bit by bit: eight flags, a UI frame of random printable text, eight flags, …

    A frame ends with its check sequence (CRC-16/X.25), a 0 is stuffed behind five 1 between flags, and a 0 on the line
    is a change of level (NRZI). Levels (S, num_bits) uint8 are 1 for mark, 0 for space. With them goes the share (S,)
    of the first bit that precedes the window, 0 … 1; the window's start is uniform in the first packet.

    Source: ISO/IEC 13239, 4.2 and 4.3; AX.25 2.2, section 3.
    """
    num_frames = 2 + num_bits // _SHORTEST_BITS
    draws = streams.uniform(Stage.WAVEFORM, 1 + num_frames * _DRAWS)
    levels = np.empty((len(draws), num_bits), dtype=np.uint8)
    elapsed = np.empty(len(draws))
    _write_levels(draws, levels, elapsed)
    return levels, elapsed


@njit(cache=True)
def _write_levels(draws: np.ndarray, levels: np.ndarray, elapsed: np.ndarray) -> None:
    packet = np.empty(_LONGEST_BITS, dtype=np.uint8)
    for row in range(len(draws)):
        frame = 0
        count = _write_packet(draws[row, 1 : 1 + _DRAWS], packet)
        start = draws[row, 0] * count
        bit = int(start)
        elapsed[row] = start - bit
        level = np.uint8(1)
        for i in range(levels.shape[1]):
            if bit == count:
                frame += 1
                count = _write_packet(draws[row, 1 + frame * _DRAWS : 1 + (frame + 1) * _DRAWS], packet)
                bit = 0
            level = level if packet[bit] else np.uint8(1 - level)
            levels[row, i] = level
            bit += 1


@njit(cache=True)
def _write_packet(draws: np.ndarray, packet: np.ndarray) -> int:
    """Write flags and a stuffed frame as bits, least significant first; return their number."""
    count = 0
    for _ in range(_NUM_FLAGS):
        for shift in range(8):
            packet[count] = _FLAG >> shift & 1
            count += 1
    length = _INFORMATION[0] + int((_INFORMATION[1] - _INFORMATION[0]) * draws[1])
    check, ones = 0xFFFF, 0
    for i in range(len(_HEADER) + length + 2):
        if i < len(_HEADER):
            byte = int(_HEADER[i]) | (int(16 * draws[0]) << 1 if i == _SOURCE_STATION else 0)
        elif i < len(_HEADER) + length:
            byte = _PRINTABLE[0] + int((_PRINTABLE[1] - _PRINTABLE[0]) * draws[2 + i - len(_HEADER)])
        else:
            byte = ((check ^ 0xFFFF) >> 8 * (i - len(_HEADER) - length)) & 0xFF
        for shift in range(8):
            bit = byte >> shift & 1
            if i < len(_HEADER) + length:
                check = check >> 1 ^ (0x8408 if (check ^ bit) & 1 else 0)
            packet[count] = bit
            count += 1
            ones = ones + 1 if bit else 0
            if ones == 5:
                packet[count] = 0
                count += 1
                ones = 0
    return count
