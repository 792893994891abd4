"""The offline demo region: a seeded simulator that writes a real STAC catalogue of real COGs."""

from pipeline.sandbox.build import write
from pipeline.sandbox.params import SandboxParams

__all__ = ["SandboxParams", "write"]
