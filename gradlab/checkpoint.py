"""A run kept in a file, from which it goes on bit for bit.

The file is written whole or not at all, checked when it is read (each array has a checksum),
and names the problem, the method and the versions it belongs to. It holds numbers and text
only: reading it runs nothing.
"""

from __future__ import annotations

import io
import json
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gradlab._files import write_whole, writing
from gradlab._fingerprint import plain

__all__ = ["Checkpoint", "CheckpointError"]

SCHEMA = 1  # of the file; raised when a reader of the older layout would go wrong
# A killed run loses no more than this.
EVERY = 10.0
# Writing takes no more than this share of the time.
_SHARE = 0.05


class CheckpointError(ValueError):
    """A file that no run can go on from; the message is for the person at the terminal."""

    for_the_terminal = True


class Checkpoint:
    """Where a run is kept, and how often.

    Args:
        path: The file, by custom `.npz`. If it is there, the run goes on from it.
        every: Seconds between two writings.

    Raises:
        ValueError: If `every` is not a positive number.

    Examples:
        >>> import gradlab as gl, pathlib, tempfile
        >>> def loss(x):
        ...     return jnp.sum((x - 1) ** 4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     keep = gl.Checkpoint(pathlib.Path(folder, "run.npz"))
        ...     first = gl.minimize(loss, jnp.zeros(2), "newton", max_steps=3, checkpoint=keep)
        ...     rest = gl.minimize(loss, jnp.zeros(2), "newton", max_steps=9, checkpoint=keep)
        >>> print(int(first.nit), int(rest.nit), len(rest.trace.loss))
        3 9 10
    """

    def __init__(self, path: str | Path, *, every: float | int = EVERY) -> None:
        if not isinstance(every, int | float) or not every > 0:
            raise ValueError(f"`every` must be a positive number of seconds, got {every!r}.")
        self.path = Path(path)
        self.every = float(every)
        self._last, self._took = time.monotonic(), 0.0

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, every={self.every:g})"

    @property
    def due(self) -> bool:
        """Whether it is time to write again."""
        wait = max(self.every, self._took / _SHARE)
        return time.monotonic() - self._last >= wait

    def write(
        self, signature: Mapping[str, Any], carry: Any, history: Mapping[str, Any]
    ) -> None:
        """Write the state of a run; in a run of several processes the first one does."""
        started = self._last = time.monotonic()
        arrays = {f"carry{i:04d}": plain(x) for i, x in enumerate(jax.tree.leaves(carry))}
        for name, tree in history.items():
            arrays |= {f"{name}{i:04d}": plain(x) for i, x in enumerate(jax.tree.leaves(tree))}
        keys = [
            str(jax.random.key_impl(x)) if _is_key(x) else "" for x in jax.tree.leaves(carry)
        ]
        if jax.process_index() == 0:
            told = {**signature, "schema": SCHEMA, "keys": keys}
            with writing():  # packing a large state takes as long as writing it
                write_whole(self.path, _packed(told, arrays))
        self._last = time.monotonic()
        self._took = self._last - started

    def read(
        self, signature: Mapping[str, Any], carry: Any, history: Mapping[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        """Read the state back into the structure of `carry` and `history`; None if none is.

        Raises:
            ValueError: If the file is damaged, newer, or belongs to another run.
        """
        if not self.path.exists():
            return None
        told, arrays = _unpacked(self.path)
        if told.get("schema", 0) > SCHEMA:
            raise CheckpointError(
                f"{str(self.path)!r} has schema {told['schema']}, and this gradlab reads up to "
                f"{SCHEMA}. Upgrade gradlab to go on from it."
            )
        _check(self.path, told, signature)
        try:
            state = _restored(carry, arrays, "carry", told["keys"])
            past = {name: _restored(tree, arrays, name) for name, tree in history.items()}
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise CheckpointError(f"{str(self.path)!r} is damaged: {error}.") from error
        return state, past


def _check(path: Path, told: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse a file of another run, and say what differs."""
    for name, value in expected.items():
        found = told.get(name)
        if found == value:
            continue
        if isinstance(value, dict) and isinstance(found, dict):
            differing = [key for key in value if found.get(key) != value[key]]
            what = ", ".join(f"{k} {found.get(k)} there, {value[k]} here" for k in differing)
        else:
            what = f"another {name}"
        raise CheckpointError(
            f"{str(path)!r} does not belong to this run: {what}. Delete it to start anew, or "
            "run what it was made by."
        )


def _packed(told: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Return the bytes of the file: arrays as they are in memory, the text as JSON."""
    content = io.BytesIO()
    text = np.frombuffer(json.dumps(told, allow_nan=False).encode(), np.uint8)
    kept: dict[str, Any] = {}
    for name, array in arrays.items():
        array = np.ascontiguousarray(array).reshape(array.shape)
        # NumPy's files know its own types only: others, bfloat16 say, are kept as bytes.
        own = array.dtype.kind in "biufc"
        kept[name] = array if own else array.reshape(-1).view(np.uint8)
    np.savez(content, told=text, **kept)
    return content.getvalue()


def _unpacked(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read the text and the arrays, refusing whatever could not have been written here."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = path.stat().st_size
            for member in archive.infolist():
                stored = member.compress_type == zipfile.ZIP_STORED
                if not stored or member.file_size > size:
                    raise ValueError("an array in it is larger than the file")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("an entry is no array")
        told = json.loads(bytes(arrays.pop("told")))
        if not isinstance(told, dict):
            raise ValueError("it names no run")
    except (
        OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error,
        NotImplementedError, MemoryError,
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"{str(path)!r} is damaged, or no checkpoint: {error}."
        ) from error
    return told, arrays


def _is_key(leaf: Any) -> bool:
    """Whether a leaf is a random key of JAX, or stands for one."""
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _restored(
    tree: Any, arrays: Mapping[str, np.ndarray], name: str, keys: Sequence[str] = ()
) -> Any:
    """Return a tree like `tree`, whose leaves say dtype (and shape), of the arrays."""
    leaves, structure = jax.tree.flatten(tree)
    build: Any = structure
    number = sum(key[: len(name)] == name and key[len(name) :].isdigit() for key in arrays)
    if number != len(leaves):
        raise ValueError(f"it holds {number} arrays of its {name}, not {len(leaves)}")
    restored = []
    for i, like in enumerate(leaves):
        array: Any = arrays[f"{name}{i:04d}"]
        shape = getattr(like, "shape", None)
        if _is_key(like):
            array = jax.random.wrap_key_data(array, impl=keys[i])
        elif array.dtype != like.dtype:
            array = array.view(like.dtype).reshape(shape)
        if shape is not None and array.shape != shape:
            raise ValueError(f"an array has shape {array.shape} where {shape} belongs")
        restored.append(array)
    return build.unflatten(restored)
