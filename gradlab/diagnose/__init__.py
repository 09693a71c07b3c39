"""One loss, everything worth knowing about it at a point, measured.

`diagnose` returns a `Diagnosis`: text by `str`, JSON, and one HTML page. Nothing here prints
or writes but by being asked to.
"""

from gradlab.diagnose.diagnosis import Diagnosis
from gradlab.diagnose.driver import diagnose
from gradlab.diagnose.section import Figure, Section

__all__ = ["Diagnosis", "Figure", "Section", "diagnose"]
