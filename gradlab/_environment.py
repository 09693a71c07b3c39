"""What a run ran on: versions, devices, precision, and the commit of the code."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["SCHEMA", "describe", "git_state"]

SCHEMA = 1  # of summary.json; raised when a reader of the older layout would go wrong

# Variables of the environment that change what is computed, or where.
_VARIABLES = re.compile(
    r"(JAX|XLA|LIBTPU|CUDA_VISIBLE|NVIDIA_TF32|OMP_NUM|TF_CUDNN)[A-Z0-9_]*(?<!KEY)(?<!TOKEN)"
)

_GIT_SECONDS = 10  # git on a slow network disk; a run must not hang for a commit name


def describe(script: str | Path) -> dict[str, Any]:
    """Return versions, devices, precision and commit, ready for `summary.json`."""
    import jax

    import gradlab

    devices, settings = jax.devices(), jax.config.values
    packages = ("jax", "jaxlib", "optax", "numpy")
    return {
        "versions": {
            "gradlab": gradlab.__version__,
            **{name: importlib.metadata.version(name) for name in packages},
            "python": platform.python_version(),
        },
        "platform": platform.platform(),
        "device": {
            "platform": jax.default_backend(),
            "kind": devices[0].device_kind,
            "count": len(devices),
        },
        "x64": bool(settings["jax_enable_x64"]),
        "matmul_precision": settings["jax_default_matmul_precision"] or "default",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "environment": {k: v for k, v in os.environ.items() if _VARIABLES.fullmatch(k)},
        "git": git_state(script),
    }


def git_state(script: str | Path) -> dict[str, Any] | None:
    """Return the commit that `script` belongs to and whether files differ from it.

    None where git is missing or does not track `script`: an installed wheel may lie inside
    some other repository, whose commit would say nothing about the code that ran.
    """
    script = Path(script).resolve()
    if _git(script.parent, "ls-files", "--error-unmatch", script.name) is None:
        return None
    commit = _git(script.parent, "rev-parse", "HEAD")
    changes = _git(script.parent, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None else {"commit": commit, "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """Return what a git command prints, or None if it cannot be had."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
