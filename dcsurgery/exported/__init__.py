"""ExportedPrograms: seen and edited as GraphModules, written back as programs."""

from __future__ import annotations

from dcsurgery.exported.lifting import program_of
from dcsurgery.exported.modules import ProgramModule, module_of

__all__ = ["ProgramModule", "module_of", "program_of"]
