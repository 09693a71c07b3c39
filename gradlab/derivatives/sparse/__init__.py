"""Sparse Hessians and Jacobians: a few products make up all entries.

The pattern is found by probing with products and checked with fresh ones, coloured, and
compiled into one function for many points.
"""

from gradlab.derivatives.sparse._build import hessian, jacobian
from gradlab.derivatives.sparse._operator import SparseDerivative

__all__ = ["SparseDerivative", "hessian", "jacobian"]
