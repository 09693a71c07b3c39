"""Figures of runs and derivatives. Every function takes `ax=None` and returns the axes.

Matplotlib is imported when something is drawn; pyplot only when no axes were given.
"""

from gradlab.plots._style import save_figure, svg_of
from gradlab.plots.basins import plot_basins
from gradlab.plots.check import plot_check
from gradlab.plots.convergence import plot_convergence
from gradlab.plots.derivatives import plot_error_ranges, plot_errors, plot_samples
from gradlab.plots.learning_rates import plot_learning_rates
from gradlab.plots.orders import plot_convergence_order
from gradlab.plots.profiles import plot_data_profile, plot_performance_profile
from gradlab.plots.spectrum import plot_spectrum
from gradlab.plots.step_sizes import plot_step_size_errors
from gradlab.plots.trajectories import plot_trajectories

__all__ = [
    "plot_basins",
    "plot_check",
    "plot_convergence",
    "plot_convergence_order",
    "plot_data_profile",
    "plot_error_ranges",
    "plot_errors",
    "plot_learning_rates",
    "plot_performance_profile",
    "plot_samples",
    "plot_spectrum",
    "plot_step_size_errors",
    "plot_trajectories",
    "save_figure",
    "svg_of",
]
