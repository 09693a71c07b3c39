"""The shapes of losses: real where one minimises, complex where one takes complex steps."""

from __future__ import annotations

import numpy as np

from gradlab._typing import AnyArray, Inexact, Int

Point = Inexact[AnyArray, " n"]
Residuals = Inexact[AnyArray, " m"]
Value = Inexact[AnyArray | np.inexact, ""]
Features = Inexact[AnyArray, "N d"]
Rows = Inexact[AnyArray, "N _"]  # of any width
Known = Inexact[AnyArray, "M d"]
KnownValues = Inexact[AnyArray, " M"]
Targets = Inexact[AnyArray, " N"]
Predictors = Inexact[AnyArray, " N"] | Inexact[AnyArray, "N d"]
Labels = Int[AnyArray, " N"]
Number = Inexact[AnyArray | np.inexact, ""]

__all__ = [
    "Features",
    "Known",
    "KnownValues",
    "Labels",
    "Number",
    "Point",
    "Predictors",
    "Residuals",
    "Rows",
    "Targets",
    "Value",
]
