"""Where a file can be written: checked before any work, and again when it is moved into place."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from dcsurgery.errors import BadInput

__all__ = ["check_output", "temporary_beside"]


def check_output(path: str | Path, source: str | Path | None = None, force: bool = False) -> Path:
    """Check that a file can be written, without writing it.

    Parameters
    ----------
    path
        The file to write.
    source
        The file that was read; it is never overwritten, also not through a link.
    force
        Allow an existing file to be replaced.

    Raises
    ------
    BadInput
        If the folder is missing, is no folder, or cannot be written to; if the path is a folder or the input itself;
        if it exists and ``force`` is not given.
    """
    path = Path(path)
    where, folder = str(path), path.parent
    if path.is_dir():
        raise BadInput("the output is a directory", where=where, fix="give a file name")
    if not folder.exists():
        raise BadInput(f"the folder {folder} does not exist", where=where, fix=f"make it: mkdir -p {folder}")
    if not folder.is_dir():
        raise BadInput(f"{folder} is a file, not a folder", where=where, fix="choose another output")
    if source is not None and _same(path, Path(source)):
        raise BadInput("the output is the input", where=where, fix="choose another output; inputs are never changed")
    if os.path.lexists(path) and not force:
        raise BadInput("exists already", where=where, fix="choose another output, or replace it with --force")
    # Root may write to a folder that its owner has locked; that it is locked still says what is wanted.
    locked = not folder.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    if locked or not os.access(folder, os.W_OK | os.X_OK):
        raise _read_only(path, "permission denied")
    try:  # read-only and full file systems, quotas: only trying tells
        temporary_beside(path).unlink()
    except OSError as error:
        raise _read_only(path, error.strerror or str(error)) from None
    return path


def temporary_beside(path: Path) -> Path:
    """Create an empty file of a new name in the folder of ``path``, with the permissions a new file gets."""
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.tmp")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return temporary


def _same(path: Path, source: Path) -> bool:
    try:
        return path.samefile(source)
    except OSError:  # one of them does not exist
        return path.resolve() == source.resolve()


def _read_only(path: Path, reason: str) -> BadInput:
    return BadInput(f"cannot write to the folder {path.parent}: {reason}", where=str(path), fix="choose another folder")
