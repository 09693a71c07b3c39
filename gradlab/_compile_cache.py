"""Compiled programs kept between processes, for the command line only.

Most of a short run is compiling, and the same command compiles the same programs again.
JAX finds them in a folder by a hash of the program, its options and the version of XLA; a
damaged file there is compiled anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["folder", "switch_on"]

# JAX keeps by default only what took a second to compile; here the small programs count.
_SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
_FOLDER = "jax_compilation_cache_dir"


def switch_on() -> None:
    """Have JAX keep compiled programs, unless the environment says where or that it must not.

    `JAX_COMPILATION_CACHE_DIR` names another folder; `JAX_ENABLE_COMPILATION_CACHE=false`
    switches it off.
    """
    if os.environ.get(_FOLDER.upper()) is not None:
        return
    where = folder(os.environ, sys.platform)
    try:
        where.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written to: compile as before
        return
    wanted = {_FOLDER: str(where), **_SETTINGS}
    if "jax" in sys.modules:
        import jax

        for name, value in wanted.items():
            jax.config.update(name, value)
        return
    for name, value in wanted.items():  # JAX reads them when it is imported
        os.environ.setdefault(name.upper(), str(value))


def folder(environment: Mapping[str, str], system: str) -> Path:
    """Return the folder for this machine in the platform's place for caches.

    One for each kind of processor: compiled code must not be met by another that shares the
    home folder and lacks its instructions.
    """
    home = Path(environment.get("HOME") or environment.get("USERPROFILE") or ".")
    if system == "darwin":
        base = home / "Library" / "Caches"
    elif system == "win32":
        base = Path(environment.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        base = Path(environment.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "gradlab" / f"jax-{_processor()}"


def _processor() -> str:
    """Return a name of the processor's kind and of what it can do."""
    told = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith(("model name", "flags", "Features", "CPU part")):
                told.append(line)
            if not line.strip():  # the next core is the same
                break
    return hashlib.sha256("".join(told).encode()).hexdigest()[:12]
