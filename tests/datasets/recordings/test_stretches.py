"""Time that recordings have in common, of many stretches, too."""

import numpy as np

from heimdall_lab.datasets.recordings import stretches


class Counted(list):
    """Stretches of one station that count how often one of them is read."""

    reads = 0

    def __iter__(self):
        self.reads += len(self)
        return super().__iter__()

    def __getitem__(self, index):
        self.reads += 1
        return super().__getitem__(index)


def test_common_stretches_are_those_of_all_pairs():
    """Also where a station's own stretches overlap, or are in no order."""
    draw = np.random.Generator(np.random.Philox(3))
    for _ in range(50):
        begin, length = draw.uniform(0, 10, (2, 2, 6))
        first, second = ([(b, b + n / 5) for b, n in zip(*own, strict=True)] for own in zip(begin, length, strict=True))
        expected = sorted(
            (max(a, c), min(b, d), (i, j))
            for i, (a, b) in enumerate(first)
            for j, (c, d) in enumerate(second)
            if max(a, c) < min(b, d)
        )
        assert stretches.common_stretches([first, second]) == expected


def test_common_stretches_of_many_do_not_compare_all_pairs():
    first, second = (Counted((k + late, k + late + 0.7) for k in range(2000)) for late in (0.0, 0.1))
    assert len(stretches.common_stretches([first, second])) == 2000
    assert second.reads < 20 * 2000


def test_best_length_of_many_lengths_does_not_go_through_them_for_each():
    lengths = Counted([*range(1000, 2000)] * 3)
    covered = {window: 3 * sum(length // window for length in range(1000, 2000)) * window for window in lengths}
    lengths.reads = 0
    best = stretches.best_length(lengths)
    assert lengths.reads < 10 * len(lengths)
    assert best == max(window for window, each in covered.items() if each >= 0.9 * max(covered.values()))
