"""Second derivatives where there is no reverse mode: forward over forward."""

from __future__ import annotations

import numpy as np

from gradlab.derivatives._check_differences import along
from gradlab.derivatives._check_evaluate import Evaluator
from gradlab.derivatives._check_first import First
from gradlab.derivatives._check_report import Finding
from gradlab.derivatives._check_search import Entry, Judged, Subject, judge, localise, stands

__all__ = ["by_pushing"]


def by_pushing(
    ev: Evaluator, first: First, k: int, rows: list[int], probe: np.ndarray
) -> tuple[list[Finding], Judged]:
    """Compare probe · H d by forward mode alone with differences of the slope along probe."""
    weights = first.columns.rows[k]
    lines = [first.lines[p].direction for p in rows]
    exact = np.array([[ev.curvature(weights, d, probe)] for d in lines])
    center = np.array([np.sum(weights * ev.jvp(probe))])
    slopes = along(
        lambda d, t: ev.pushed(d, t, weights, probe), lines, ev.x, center, ev.problem.eps
    )
    judged = judge(
        exact,
        np.abs(exact),
        slopes,
        1,
        ev.problem.eps,
        np.abs(center),
        0.0,
        np.abs(center),
        ev.closeness,
    )
    small = slopes.error[1] <= np.sqrt(ev.problem.eps) * np.abs(center)
    judged = judged._replace(
        resolved=judged.resolved | (~judged.differs & np.isfinite(exact) & small)
    )
    failing = np.flatnonzero(judged.differs[:, 0])
    if not len(failing):
        return [], judged
    row = int(failing[np.argmax(judged.excess[failing, 0])])
    spread = ev.curvature_spread(weights, lines[row], probe)
    subject = Subject(
        lambda d: ev.curvature(weights, d, probe),
        lambda d: abs(ev.curvature(weights, d, probe)),
        lambda d, t: ev.pushed(d, t, weights, probe),
        float(center[0]),
        ev.problem.eps,
        abs(float(center[0])),
        ev.closeness,
        lambda d: spread,
    )
    if not stands(subject, lines[row], ev.x):
        return [], judged
    found, few = localise(subject, lines[row], ev.x)
    index = found[0].flat if found else int(few[0])
    leaf = ev.problem.leaf_of(index)
    entry = (
        found[0]
        if found
        else Entry(
            index,
            float(exact[row, 0]),
            float(slopes.value[1][row, 0]),
            float(slopes.error[1][row, 0]),
        )
    )
    place = leaf.place(index) if found else None
    words = "only at second order"
    numbers = entry.exact, entry.value, entry.error
    return [
        Finding(leaf.name, place, "", 2, "forward mode", *numbers, words, "a random direction")
    ], judged
