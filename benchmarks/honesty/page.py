"""The page `docs/honesty.md` of the cells of all rows."""

import math
from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill

import numpy as np

from heimdall_lab.core.text import length_text
from honesty.cells import MOST_SILENT_SHARE, Cell, Share
from honesty.disturbances import DISTURBANCES
from honesty.rows import SEED, TITLES, Row

_LINE_LENGTH = 120
_OPENING = """# Honesty

How often is a fix wrong without saying so, where the world is not the simulator? Back to [the README](../README.md).

`make honesty` makes this page. It disturbs datasets together with their truth, in one way at a time, locates in them
with every method, and compares the ellipses with the truth. The disturbances are functions in
[`benchmarks/honesty`](../benchmarks/honesty/disturbances.py). Methods know of a disturbed dataset what they would know
of the undisturbed one.

- Simulated rows have {scenes:,} scenes of seed {seed}, of which methods on IQ (`dpd` and the `iq_…` networks) locate
  the first {few:,}. No trained localizer has seen them.
- One bad clock, receiver, oscillator or filter is another one in each scene, drawn from those with signal, the
  reference of the differences among them.
- Trained localizers stand in the rows whose data they can take.

## How to read it

- **Converged**: share of all scenes in which the method stands by its fix. Refusing is honest where nothing can be
  told, and a loss where something can.
- **Checked**: of the converged fixes, how many other measurements could have contradicted. `no`: none was left over to
  do so. `weakly`: a fault of one link could move the fix out of its ellipse unnoticed.
- **In 68 %, in 95 %**: share of the converged fixes whose ellipse of that level holds the truth. Honest is the level
  itself.
- **Silently wrong**: share of the converged fixes whose 99 % ellipse does not hold the truth, 1 % by definition of a
  perfect method. In parentheses: what that share exceeds with 95 % confidence, in percent (Clopper and Pearson,
  one-sided).
- **Silently wrong of checked**: the same of those with `checked` = yes. This is barred: where the limit in parentheses
  exceeds {most}, the cell is bold.
- **RMSE / bound**: root mean square of each error over the Cramér-Rao bound of its scene, over all scenes and over the
  converged ones. The bound is that of the links that are not disturbed: with one clock of seven late, it is that of the
  other six. In simulated scenes it takes levels and delays, in real ones delays alone, with the standard deviations
  that are stated of them, along straight lines. It takes errors as normal, and in `nlos_sync` and `uhf_mixed`, where
  links are late, it is that of a genie who is told which are. Methods with prior knowledge of where transmitters are
  (`centroid`, `strongest`, `rss_ml` and the trained ones) may be below it.
- **Median error**: half of all fixes are closer to the truth than this, whether they converged or not.
- –: there is no such fix, or no bound.
"""
_HEADER = (
    "method",
    "converged",
    "checked: yes",
    "weakly",
    "no",
    "in 68 %",
    "in 95 %",
    "silently wrong",
    "silently wrong of checked",
    "median error",
    "RMSE / bound",
    "of converged",
)


def text(judged: Mapping[Row, Sequence[Cell]], absent: Sequence[Row], scenes: int, few: int) -> str:
    """Write the page.

    Parameters
    ----------
    judged : mapping of Row to sequence of Cell
    absent : sequence of Row
        Whose data are not at hand.
    scenes, few : int
        Simulated scenes of a row, and of them for methods on IQ.
    """
    opening = _OPENING.format(most=f"{MOST_SILENT_SHARE:.0%}".replace("%", " %"), scenes=scenes, few=few, seed=SEED)
    sections = [_section(row, cells) for row, cells in judged.items()]
    missing = [f"- {TITLES[row.dataset][0]}: not at hand where this page was made." for row in absent]
    parts = [opening, _meanings(judged), _summary(judged), *sections, "\n".join(missing)]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts if part)


def _meanings(rows: Iterable[Row]) -> str:
    """Say in a sentence what each dataset and each disturbance is."""
    datasets = dict.fromkeys(TITLES[row.dataset] for row in rows)
    disturbances = dict.fromkeys(row.disturbance for row in rows)
    lines = _table_head(["dataset", "what it is"])
    lines += [_table_line(about) for about in datasets]
    lines += ["", *_table_head(["disturbance", "what differs"])]
    lines += [_table_line(DISTURBANCES[name][:2]) for name in disturbances]
    return "\n".join(["## What the rows are", "", *lines])


def _summary(judged: Mapping[Row, Sequence[Cell]]) -> str:
    """Table of all rows and methods: silently wrong of checked."""
    names = list(dict.fromkeys(cell.method for cells in judged.values() for cell in cells))
    lines = _table_head(["dataset", *(f"`{name}`" for name in names)])
    for row, cells in judged.items():
        by_name = {cell.method: cell for cell in cells}
        lines.append(_table_line([row.title, *(_short(by_name.get(name)) for name in names)]))
    every = [cell for cells in judged.values() for cell in cells]
    exceeding = sum(cell.exceeds for cell in every)
    about = (
        f"Share of the checked fixes that are silently wrong, in percent; – where there is no such fix. {exceeding} of "
        f"{len(every)} cells are above the limit, in bold."
    )
    return "\n".join(["## All rows", "", fill(about, _LINE_LENGTH), "", *lines])


def _section(row: Row, cells: Sequence[Cell]) -> str:
    lines = _table_head(_HEADER)
    for cell in cells:
        silent_checked = _with_limit(cell.silent_checked)
        columns = [
            f"`{cell.method}`",
            _percent(cell.converged),
            *(_percent(share) for share in cell.checked.values()),
            _percent(cell.coverage_68),
            _percent(cell.coverage_95),
            _with_limit(cell.silent),
            f"**{silent_checked}**" if cell.exceeds else silent_checked,
            length_text(cell.median_m),
            _ratio(cell.relative_rmse),
            _ratio(cell.relative_rmse_converged),
        ]
        lines.append(_table_line(columns))
    most = max((cell.converged.of for cell in cells), default=0)
    return "\n".join([f"## {row.title}", "", f"{most:,} scenes.", "", *lines])


def _short(cell: Cell | None) -> str:
    if cell is None or not cell.silent_checked.of:
        return "–"
    number = f"{100 * cell.silent_checked.value:.1f}"
    return f"**{number}**" if cell.exceeds else number


def _percent(share: Share) -> str:
    """Write a share in percent; in tenths near the ends, where whole numbers would say all or none."""
    if not share.of:
        return "–"
    percent = 100 * share.value
    return f"{percent:.1f} %" if 0 < percent < 2 or 98 < percent < 100 else f"{percent:.0f} %"


def _with_limit(share: Share) -> str:
    return f"{100 * share.value:.1f} % ({100 * share.lower_limit:.1f})" if share.of else "–"


def _ratio(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:.2f}" if value < 100 else f"{float(np.format_float_positional(value, 3, fractional=False)):,.0f}"


def _table_head(names: Sequence[str]) -> list[str]:
    return [_table_line(names), "|" + "---|" * len(names)]


def _table_line(columns: Sequence[str]) -> str:
    return f"| {' | '.join(columns)} |"
