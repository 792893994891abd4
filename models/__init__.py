"""Networks and their losses: a leaf of the project (torch and the standard library only)."""

from models.registry import build, complete

__all__ = ["build", "complete"]
