"""`Diagnosis`: what was found, as text, JSON and one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gradlab import _html
from gradlab._files import write_whole
from gradlab._json import to_json
from gradlab.certificate import Certificate
from gradlab.compare import Comparison
from gradlab.derivatives.check import CheckReport
from gradlab.derivatives.digits import Digits
from gradlab.derivatives.noise import NoiseEstimate
from gradlab.diagnose.costs import Cost
from gradlab.diagnose.curvature import Curvature
from gradlab.diagnose.section import Figure, Section

__all__ = ["Diagnosis"]

SCHEMA = 1  # of the JSON; raised when a reader of the older layout would go wrong


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What `diagnose` found. Whatever could not be measured is None, and its section says why.

    Attributes:
        name: Name of the loss.
        num_params: Number n of variables.
        dtype: The parameters' floating-point type.
        value: The loss at the point.
        sections: Question by question, the recommendation first.
        check: Report of `check_derivatives`.
        digits: Right digits of the gradient.
        noise: Noise level of the loss.
        costs: Time of a loss, gradient, product and Hessian.
        curvature: Spectrum of the Hessian.
        certificate: What kind of point it is.
        comparison: The methods' runs.
    """

    name: str
    num_params: int
    dtype: str
    value: float
    sections: Mapping[str, Section]
    check: CheckReport | None
    digits: Digits | None
    noise: NoiseEstimate | None
    costs: Mapping[str, Cost] | None
    curvature: Curvature | None
    certificate: Certificate | None
    comparison: Comparison | None

    @property
    def method(self) -> str | None:
        """The method recommended, or None."""
        return self.sections["advice"].data.get("method")

    @property
    def headline(self) -> str:
        """What was diagnosed, in a line."""
        return (
            f"{self.name}: {self.num_params} variables in {self.dtype}, loss {self.value:.8g}"
        )

    def __str__(self) -> str:
        return "\n\n".join([self.headline, *map(str, self.sections.values())])

    def to_json(self, path: str | Path | None = None) -> str:
        """Return the figures as strict JSON, and write them to `path` if one is given."""
        text = to_json(
            {
                "schema": SCHEMA,
                "name": self.name,
                "num_params": self.num_params,
                "dtype": self.dtype,
                "value": self.value,
                "sections": {
                    key: {
                        "title": section.title,
                        "measured": section.measured,
                        "answer": section.answer,
                        **dict(section.data),
                    }
                    for key, section in self.sections.items()
                },
            }
        )
        if path is not None:
            write_whole(path, text.encode())
        return text

    def to_html(self, path: str | Path | None = None, *, beside: str = "") -> str:
        """Return one HTML page with all figures in it, and write it to `path` if given.

        Args:
            path: The file, written whole or not at all.
            beside: Further parts of the page, HTML already, put at its end.
        """
        from gradlab.plots import svg_of

        def render(figure: Figure) -> bytes:
            return svg_of(figure.draw().figure.figure)

        parts = [_html.paragraphs(self.headline, "quiet")]
        for section in self.sections.values():
            parts.extend(section.to_html(render))
        text = _html.page(f"Diagnosis of {self.name}", [*parts, beside])
        if path is not None:
            write_whole(path, text.encode())
        return text
