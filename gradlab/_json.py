"""Strict JSON, in which numbers that are not finite survive the round trip."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["read_json", "to_json"]

# JSON has no such numbers, so they are written as these strings and read back as floats.
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def to_json(value: Any) -> str:
    """Return `value` as strict JSON text.

    NumPy and JAX scalars and arrays become numbers and lists. NaN and the infinities,
    which JSON does not have, become the strings "NaN", "Infinity" and "-Infinity";
    `read_json` turns them back.

    Raises:
        TypeError: If an entry has no JSON counterpart; its place is named.

    Examples:
        >>> from gradlab._json import to_json
        >>> print(to_json({"loss": [0.5, float("nan")]}), end="")
        {
         "loss": [
          0.5,
          "NaN"
         ]
        }
    """
    plain = _plain(value, "value")
    return json.dumps(plain, allow_nan=False, ensure_ascii=False, indent=1) + "\n"


def read_json(path: str | Path) -> Any:
    """Read a file of text made by `to_json`.

    Raises:
        ValueError: If the file is not strict JSON, truncated for example; it is named.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        return _with_floats(json.loads(text, parse_constant=_refuse_constant))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged or not JSON: {error}.") from error


def _plain(value: Any, place: str) -> Any:
    """Return `value` in the types that `json` writes; `place` names it in an error."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)  # an IntEnum is written as its number
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _name_of(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"A key of {place} is {key!r}; JSON allows only text.")
        return {key: _plain(entry, f"{place}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry, f"{place}[{i}]") for i, entry in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy and JAX arrays and scalars
        return _plain(value.tolist(), place)
    raise TypeError(f"{place} is of type {type(value).__name__}, which JSON cannot hold.")


def _name_of(value: float) -> str:
    """Name a number that is not finite as `read_json` expects it."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _with_floats(value: Any) -> Any:
    """Turn the names of numbers that are not finite back into floats."""
    if isinstance(value, dict):
        return {key: _with_floats(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_with_floats(entry) for entry in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value


def _refuse_constant(text: str) -> Any:
    """Refuse the bare NaN that Python's parser would let pass."""
    raise ValueError(f"{text} is not JSON")
