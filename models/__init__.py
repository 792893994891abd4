"""Networks and their losses: a leaf of the project (torch and the standard library only)."""

from models.ensemble import Ensemble
from models.forest import Forest
from models.methods.pretrained import WeightsAbsent, width_of
from models.registry import build, complete, image_encoders

__all__ = ["Ensemble", "Forest", "WeightsAbsent", "build", "complete", "image_encoders", "width_of"]
