"""Pure losses with their data, starting points and known answers.

`get(name, **options)` returns a `Problem`; `names()` lists them; `register` adds one.
"""

from gradlab.problems import (  # noqa: F401  (these fill the table)
    analytic,
    mgh_data,
    mgh_linear,
    mgh_small,
    mgh_variable,
    networks,
    nist,
    regression,
)
from gradlab.problems.registry import Problem, get, names, register

__all__ = ["Problem", "get", "names", "register"]
