"""What a calibration found, as tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ebmsim.report.table import console, plain_table

if TYPE_CHECKING:
    from ebmsim.calibration.calibrate import Calibrated


def print_calibration(found: Calibrated, file: Path) -> None:
    """Print the residuals of steps held out of the fit, and how far whole models are off."""
    out = console()
    table = plain_table(
        "category", "measured time", "figures", "median", "90th percentile", title="Small steps held out"
    )
    table.columns[1].justify = "left"
    for row in found.residuals:
        errors = [f"{100 * row[k]:.1f} %" for k in ("median", "p90")]
        table.add_row(row["category"], row["size"], str(row["steps"]), *errors)
    out.print(table)
    if found.models:
        models = plain_table("workload", "T_samp, predicted to measured", title="Whole models held out, preset small")
        for name, error in found.models.items():
            models.add_row(name, f"{100 * error:+.1f} %")
        out.print(models)
    out.print(f"wrote {file}: ebmsim estimate WORKLOAD --hw {file} uses it at fidelity calibrated", highlight=False)
