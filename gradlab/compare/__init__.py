"""Many methods on the same losses, from the same starts, on the same axes.

`compare` runs them and returns a `Comparison`: a table, the histories, a CSV file,
performance profiles. The plots are made from it. Nothing here prints or draws.
"""

from gradlab.compare.comparison import Comparison
from gradlab.compare.driver import compare
from gradlab.compare.lanes import Swept, sweep
from gradlab.compare.order import Order, convergence_order
from gradlab.compare.profile import Profile
from gradlab.compare.run import Run, Sweep
from gradlab.compare.starts import Endings, Multistart, grid, multistart
from gradlab.compare.table import Table

__all__ = [
    "Comparison",
    "Endings",
    "Multistart",
    "Order",
    "Profile",
    "Run",
    "Sweep",
    "Swept",
    "Table",
    "compare",
    "convergence_order",
    "grid",
    "multistart",
    "sweep",
]
