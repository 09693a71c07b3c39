"""Pure losses with their data, starting points and known answers.

`get(name, **options)` returns a `Problem`; `names()` lists them; `register` adds one.
"""

from gradlab.problems import analytic, regression  # noqa: F401  (these fill the table)
from gradlab.problems.registry import Problem, get, names, register

__all__ = ["Problem", "get", "names", "register"]
