"""What commands write: checked before any work, and complete or not there at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dcsurgery.errors import BadInput

__all__ = ["Destination", "check_picture_options", "check_writable", "default_output", "write_text"]


@dataclass(frozen=True)
class Destination:
    """The files that a surgery writes, and on which conditions."""

    model: Path
    report: Path | None
    force: bool
    verify: bool
    keep_failed: bool
    diff: Path | None = None

    def check(self, read: Iterable[Path]) -> None:
        """Raise BadInput if a file cannot be written, or is one of those that are read."""
        protected = tuple(read)
        check_writable(self.model, protected, self.force)
        if self.report is not None:
            check_writable(self.report, protected, self.force)
            if self.report.resolve() == self.model.resolve():
                raise BadInput("model and report are to go to the same file", where=str(self.report), fix="choose two")
        if self.diff is not None:
            from dcsurgery.cli.diffing import check_diff_file

            check_diff_file(self.diff, protected, self.force)
            if self.diff.resolve() in {path.resolve() for path in (self.model, self.report) if path is not None}:
                raise BadInput(
                    "the diff is to go to a file with something else", where=str(self.diff), fix="choose another"
                )


def default_output(model: Path) -> Path:
    """Return ``model.dcs.pt`` beside ``model.pt``."""
    return model.with_name(f"{model.stem}.dcs{model.suffix}")


def check_writable(path: Path, read: Iterable[Path], force: bool) -> None:
    """Raise BadInput if a file cannot be written; see `dcsurgery.files.check_output`."""
    from dcsurgery import files

    for source in read:
        files.check_output(path, source, force)


def check_picture_options(rankdir: str) -> None:
    """Raise BadInput if there is no such direction; said before anything is read."""
    if rankdir not in ("TB", "LR"):
        raise BadInput(
            f"no direction {rankdir!r}", where="--rankdir", fix="use TB (top to bottom) or LR (left to right)"
        )


def write_text(path: Path, text: str) -> None:
    """Write a text file: a temporary one first, which is then moved.

    Raises
    ------
    BadInput
        If it cannot be written.
    """
    from dcsurgery.files.destination import temporary_beside

    try:
        temporary = temporary_beside(path)
        try:
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"cannot be written: {error.strerror}", where=str(path), fix="choose another output") from None
