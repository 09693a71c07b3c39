"""Operators on functions: autodiff, differences, checks; imported through `gradlab`."""
