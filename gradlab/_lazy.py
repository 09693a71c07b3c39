"""Packages whose names are imported when first used."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Mapping
from typing import Any

__all__ = ["make_lazy"]


def make_lazy(package: str, homes: Mapping[str, str]) -> None:
    """Let a package import its names when they are first used.

    Args:
        package: The package's `__name__`.
        homes: Public name -> the module that defines it, or that it is.
    """
    module = sys.modules[package]
    module.__class__ = _LazyPackage
    module._homes = dict(homes)  # type: ignore[attr-defined]  # the class declares it


class _LazyPackage(types.ModuleType):
    """Keeps a function its name where Python binds that of the submodule it lives in."""

    _homes: dict[str, str]

    def __getattr__(self, name: str) -> Any:
        if name not in self.__dict__.get("_homes", {}):
            from gradlab._errors import nearest

            hint = nearest(name, self.__all__)
            raise AttributeError(f"{self.__name__} has no attribute {name!r}.{hint}")
        home = self._homes[name]
        module = importlib.import_module(home)
        itself = home.endswith(f".{name}") and not hasattr(module, name)
        value = module if itself else getattr(module, name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, types.ModuleType) and name in self.__dict__.get("_homes", {}):
            value = getattr(value, name, value)
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self.__all__, *(n for n in self.__dict__ if n.startswith("__"))})
