"""What a check found, and the table a person reads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["CheckReport", "Finding", "LeafVerdict", "Remainder"]

# Rows of the table of faults; the rest is counted.
_ROWS = 12


@dataclass(frozen=True, eq=False)
class Finding:
    """One derivative that is wrong.

    Attributes:
        leaf: The input, as the caller writes it: `params['layer1']['w']`.
        index: The entry, or None where the fault could not be narrowed down to one.
        output: The output, `f(x)[2]`, or "" for a scalar function.
        order: 1 or 2.
        check: What disagrees with the difference: "reverse mode", "forward mode",
            "autodiff" (both alike), or what else failed: "vmap", "jit", "symmetry".
        autodiff: The number automatic differentiation gives.
        difference: The number it should be, by differences.
        bar: Error bar of `difference`.
        cause: The cause in a few words where it is recognised, else "".
        other: At order 2 the second variable and its index.
    """

    leaf: str
    index: tuple[int, ...] | None
    output: str
    order: int
    check: str
    autodiff: float
    difference: float
    bar: float
    cause: str = ""
    other: str = ""

    @property
    def where(self) -> str:
        """The entry as the caller would write it."""
        return self.leaf + bracketed(self.index) + (f" × {self.other}" if self.other else "")


@dataclass(frozen=True, eq=False)
class LeafVerdict:
    """What is known about one input leaf.

    Attributes:
        leaf: Its name.
        shape: Its shape.
        verdict: "right", "wrong" or "cannot tell".
        agreement: For each order, the largest of (|autodiff - difference| + bar) / size over
            the directions that were resolved best; infinite where none was.
        note: What else there is to say.
    """

    leaf: str
    shape: tuple[int, ...]
    verdict: str
    agreement: dict[int, float]
    note: str = ""


@dataclass(frozen=True, eq=False)
class Remainder:
    r"""Taylor remainders along one direction within one leaf.

    $R_1(t) = |f(x + t d) - f(x) - t\, g \cdot d|$ falls as t² where the gradient is right,
    $R_2(t) = |R_1 - t^2 d \cdot H d / 2|$ as t³ where the Hessian is.

    Attributes:
        leaf: Name of the leaf.
        steps: Steps t, rising, shape (M,).
        remainders: By order, shape (M,).
        noise: Level below which a remainder is rounding.
        slopes: By order, the slope over the steps that can be trusted; NaN where too few.
        trusted: By order, which steps those are, shape (M,).
    """

    leaf: str
    steps: np.ndarray
    remainders: dict[int, np.ndarray]
    noise: float
    slopes: dict[int, float]
    trusted: dict[int, np.ndarray]


@dataclass(frozen=True, eq=False)
class CheckReport:
    """Outcome of `check_derivatives`. `str()` of it is a table.

    Attributes:
        verdict: "right", "wrong" or "cannot tell".
        findings: The derivatives that are wrong, gravest first.
        leaves: A verdict for each input leaf.
        notes: What else was seen: integer leaves, clamped indices, frozen randomness, modes
            that are not available, lost digits.
        remainders: Taylor remainders, one for each leaf (or group of leaves).
        order: The highest order that was checked.
        digits: Right decimal digits of the gradient as computed: as many as autodiff and
            differences share, measured otherwise where those are few; NaN where not known.
        calls: Evaluations of f and of its derivatives.
    """

    verdict: str
    findings: tuple[Finding, ...]
    leaves: tuple[LeafVerdict, ...]
    notes: tuple[str, ...]
    remainders: tuple[Remainder, ...] = field(default=(), repr=False)
    order: int = 2
    digits: float = float("nan")
    calls: int = 0

    @property
    def ok(self) -> bool:
        """Whether the verdict is "right"."""
        return self.verdict == "right"

    def __str__(self) -> str:
        """Write the verdict, the faults, the leaves and the notes."""
        parts = [self._headline()]
        if self.findings:
            parts.append(_table(_fault_rows(self.findings)))
            if len(self.findings) > _ROWS:
                parts.append(f"  and {len(self.findings) - _ROWS} more")
        parts.append(_table(self._leaf_rows()))
        if len(self.leaves) > 2 * _ROWS:
            parts.append(f"  and {len(self.leaves) - 2 * _ROWS} more leaves")
        parts += [f"note: {note}" for note in self.notes]
        return "\n".join(parts)

    def _headline(self) -> str:
        what = "first derivatives" if self.order == 1 else "first and second derivatives"
        wrong = [leaf.leaf for leaf in self.leaves if leaf.verdict == "wrong"]
        told = {
            "right": f"the {what} are right.",
            "wrong": f"a derivative is wrong{' in ' + ', '.join(wrong[:4]) if wrong else ''}.",
            "cannot tell": f"cannot tell whether the {what} are right.",
        }
        return f"check_derivatives: {told[self.verdict]}"

    def _leaf_rows(self) -> list[list[str]]:
        orders = range(1, self.order + 1)
        expected = " ".join(str(o + 1) for o in orders)
        rows = [["leaf", "shape", "verdict", *(f"order {o} agrees" for o in orders)]]
        rows[0] += [f"slopes ({expected} if right)", ""]
        measured = {r.leaf: r.slopes for r in self.remainders}
        shown = sorted(self.leaves, key=lambda v: _GRAVITY.index(v.verdict))[: 2 * _ROWS]
        for leaf in shown:
            agreed = [_agreement(leaf.agreement.get(o)) for o in orders]
            slope = " ".join(_slope(s) for s in measured.get(leaf.leaf, {}).values())
            rows.append([leaf.leaf, str(leaf.shape), leaf.verdict, *agreed, slope, leaf.note])
        return rows


_GRAVITY = ("wrong", "cannot tell", "right")


def bracketed(index: tuple[int, ...] | None) -> str:
    """Write an index: [3, 1]; nothing for a scalar or an unknown one."""
    return f"[{', '.join(map(str, index))}]" if index else ""


def number(value: float) -> str:
    """Write a number with the digits a comparison needs."""
    return f"{value:.8g}"


def _agreement(value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "-"
    return f"to {value:.1e}" if value else "exactly"


def _slope(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.1f}"


def _fault_rows(findings: tuple[Finding, ...]) -> list[list[str]]:
    several = any(f.output for f in findings)
    rows = [["entry", *(["output"] if several else []), "order", "check"]]
    rows[0] += ["autodiff", "difference ± bar", "cause"]
    for f in findings[:_ROWS]:
        difference = f"{number(f.difference)} ± {f.bar:.1e}"
        output = [f.output] if several else []
        rows.append(
            [f.where, *output, str(f.order), f.check, number(f.autodiff), difference, f.cause]
        )
    return rows


def _table(rows: list[list[str]]) -> str:
    """Align the columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def merged(states: list[Any]) -> str:
    """The gravest of several verdicts."""
    return min(states, key=_GRAVITY.index, default="right")
