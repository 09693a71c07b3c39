"""Reader of the data files of NIST's Statistical Reference Datasets."""

from __future__ import annotations

import functools
import importlib.resources
import re
from typing import Any, NamedTuple

import numpy as np

from gradlab._typing import Float

__all__ = ["Dataset", "read"]


class Dataset(NamedTuple):
    """The content of one file.

    Attributes:
        response: The values y, shape (N,).
        predictors: The values x, shape (N,), or (N, d) where there are several.
        starts: The two starting points, shape (2, n).
        certified: "parameters" and "standard_deviations", shape (n,);
            "residual_sum_of_squares", "residual_standard_deviation", "degrees_of_freedom".
        description: Class of the model, size and level of difficulty, in one line.
        reference: Where the data are from.
    """

    response: Float[np.ndarray, " N"]
    predictors: Float[np.ndarray, " N"] | Float[np.ndarray, "N d"]
    starts: Float[np.ndarray, "2 n"]
    certified: dict[str, Any]
    description: str
    reference: str


@functools.cache
def read(dataset: str) -> Dataset:
    """Read a file that comes with the package, by its name without the ending.

    Args:
        dataset: Such as "Misra1a".

    Returns:
        Its content, in arrays that cannot be written to.

    Examples:
        >>> from gradlab.problems.nist import read
        >>> data = read("BoxBOD")
        >>> data.predictors.tolist()
        [1.0, 2.0, 3.0, 5.0, 7.0, 10.0]
        >>> data.certified["degrees_of_freedom"]
        4
    """
    file = importlib.resources.files("gradlab.problems") / "nist" / f"{dataset}.dat"
    return parse(file.read_text(encoding="ascii"))


def parse(text: str) -> Dataset:
    """Parse the text of a file; its header names the lines that hold the numbers."""
    lines = text.splitlines()
    parameters = np.array([_numbers(line.split("=")[1]) for line in _rows(lines, "Starting")])
    data = np.array([_numbers(line) for line in _rows(lines, "Data")])
    for array in (data, parameters):  # views of them, below, inherit it
        array.setflags(write=False)
    certified = {
        "parameters": parameters[:, 2],
        "standard_deviations": parameters[:, 3],
        "residual_sum_of_squares": _figure(text, "Residual Sum of Squares"),
        "residual_standard_deviation": _figure(text, "Residual Standard Deviation"),
        # not the printed number: Rat43 prints 9 for 15 - 4, and computes with 11
        "degrees_of_freedom": len(data) - len(parameters),
    }
    return Dataset(
        response=data[:, 0],
        predictors=data[:, 1] if data.shape[1] == 2 else data[:, 1:],
        starts=parameters[:, :2].T,
        certified=certified,
        description=_describe(text, len(data), len(parameters)),
        reference=_block(text, "Reference"),
    )


def _rows(lines: list[str], section: str) -> list[str]:
    """Return the lines that the header gives for a section, counted from 1."""
    for line in lines[:10]:
        match = re.search(section + r".*\(lines\s+(\d+)\s+to\s+(\d+)\)", line)
        if match:
            return lines[int(match[1]) - 1 : int(match[2])]
    raise ValueError(f"the header does not say where the section {section!r} is.")


def _numbers(line: str) -> list[float]:
    """Read the numbers of a line."""
    return [float(word) for word in line.split()]


def _figure(text: str, label: str) -> float:
    """Read the number behind a label."""
    match = re.search(label + r":\s+(\S+)", text)
    if match is None:
        raise ValueError(f"the file has no {label!r}.")
    return float(match[1])


def _block(text: str, label: str) -> str:
    """Join the indented lines of a labelled block."""
    match = re.search(rf"^{label}:((?:[ ]+\S.*\n)+)", text, re.MULTILINE)
    return " ".join(match[1].split()) if match else ""


def _describe(text: str, num_samples: int, num_parameters: int) -> str:
    """Say what kind of problem it is, in one line."""
    kind = _block(text, "Model").partition(f" {num_parameters} Parameters")[0]
    level = re.search(r"(\w+) Level of Difficulty", text)
    difficulty = f", {level[1].lower()} level of difficulty" if level else ""
    return f"{kind}: {num_parameters} parameters, {num_samples} observations{difficulty}."
