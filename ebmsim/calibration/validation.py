"""A table of measured kernels replayed on a device: how far the model is from the measurements."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ebmsim.calibration.replay import (
    EIGHTY,
    Errors,
    Prepared,
    check_dtypes,
    deviation_of,
    errors,
    groups,
    predict,
    prepare,
)
from ebmsim.calibration.tables import read_table
from ebmsim.errors import Problem, SpecError
from ebmsim.hardware import Hardware
from ebmsim.policy import Profile
from ebmsim.spec.library import load_hardware, load_profile


@dataclass(frozen=True)
class Validation:
    """A replayed table. predicted: s, one per measurement."""

    hardware: Hardware
    profile: Profile
    prepared: Prepared
    predicted: Any

    @property
    def errors(self) -> Errors:
        """Errors over all rows."""
        return errors(self.predicted, self.prepared.measured)

    @property
    def covered(self) -> float:
        """The share of rows whose measurement lies within the 80 % interval of the prediction."""
        sigma = np.array([deviation_of(m, self.profile) for m in self.prepared.measurements])
        return float(np.mean(np.abs(np.log(self.predicted / self.prepared.measured)) <= EIGHTY * sigma))

    @property
    def groups(self) -> list[dict[str, Any]]:
        """Errors by kind, phase, dtype and band of measured time."""
        return groups(self.prepared, self.predicted)

    def to_dict(self) -> dict[str, Any]:
        """Errors as fractions, times in s."""
        return {
            "hardware": self.hardware.name,
            "software": self.profile.name,
            **self.errors._asdict(),
            "covered": self.covered,
            "groups": self.groups,
        }


def validate(measurements: str | Path, hardware: str | Path, software: str = "") -> Validation:
    """Predict every kernel of a CSV table of measurements on a device and compare.

    software: a profile; the device's own if not given. Raises SpecError with the problems of the table and the device.
    """
    problems: list[Problem] = []
    rows, device = [], None
    try:
        rows = read_table(measurements)
    except SpecError as error:
        problems += error.problems
    try:
        device = load_hardware(hardware)
        profile = load_profile(software or device.software)
    except SpecError as error:
        problems += error.problems
    if problems or device is None:
        raise SpecError(problems)
    check_dtypes(rows, device, profile, str(measurements))
    prepared = prepare(rows)
    return Validation(device, profile, prepared, predict(prepared, device, profile))
