"""The stage units: the pictures that activate units of the network, and the units that contribute most to a class."""

from featstore.stages.units.report import Activation, UnitActivations, UnitsReport
from featstore.stages.units.stage import units

__all__ = ["Activation", "UnitActivations", "UnitsReport", "units"]
