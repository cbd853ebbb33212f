"""What this machine can run, what is missing, and how to get it here."""

from clst_runtime.doctor.examination import examine, lacking
from clst_runtime.doctor.findings import Finding, State

__all__ = ["Finding", "State", "examine", "lacking"]
