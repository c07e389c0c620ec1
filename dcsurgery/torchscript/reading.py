"""Read a TorchScript archive from a file: its code is checked and becomes Python, its tensors are read, nothing runs."""

from __future__ import annotations

import ast
import io
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from dcsurgery.errors import BadInput
from dcsurgery.torchscript.contents import Contents, read_contents
from dcsurgery.torchscript.importing import archive_of, import_contents

__all__ = ["needed_version", "read_archive", "tell_deprecated"]

_FIRST = 3  # version of archives none of whose operators ever changed
_TOLD: set[str] = set()


def read_archive(path: Path, *, trust: bool = False) -> tuple[nn.Module, dict[str, bytes]]:
    """Return the model in an archive, imported, and the extra files beside it.

    Parameters
    ----------
    path
        What ``torch.jit.save`` wrote; it is opened for reading only.
    trust
        Call operators of any package that is loaded, not only of torch and of packages known to be safe.

    Raises
    ------
    BadInput
        If the archive is truncated, newer than this torch, lacks code, or uses what is not imported.
    UnsafeFile
        If it holds anything that TorchScript does not write.
    """
    where = str(path)
    data = path.read_bytes()
    contents = read_contents(data, where)
    if contents.version < needed_version(contents.code.values()):
        contents = _upgraded(data, contents, where)
    tell_deprecated()
    return import_contents(contents, trusted=trust, where=where), contents.extra_files


def tell_deprecated() -> None:
    """Warn, once in a process, that PyTorch has deprecated TorchScript."""
    if not _TOLD:
        _TOLD.add("told")
        warnings.warn(
            "TorchScript is deprecated in PyTorch: it is read and written here, and .pt2 (torch.export) is the format "
            "to exchange models in",
            FutureWarning,
            stacklevel=3,
        )


def needed_version(texts: Iterable[str]) -> int:
    """Return the version that the operators in an archive's code need; an older one gives some another meaning."""
    bumped = {
        name.partition("::")[2].partition(".")[0]: max(entry.bumped_at_version for entry in entries)
        for name, entries in torch._C._get_operator_version_map().items()
    }
    versions = [_FIRST]
    for text in texts:
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            continue  # the reader says so
        versions += [bumped.get(n.attr, _FIRST) for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
    return max(versions)


def _upgraded(data: bytes, contents: Contents, where: str) -> Contents:
    """Let torch rewrite the operators whose meaning has changed since an old archive was written."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.jit.load(io.BytesIO(data), map_location="cpu")
    except RuntimeError as error:
        line = (str(error).strip().splitlines() or [""])[0]
        raise BadInput(
            f"was written by an old PyTorch and cannot be loaded: {line[:120]}", where=where, fix="export it again"
        ) from None
    upgraded = read_contents(archive_of(loaded), where)
    upgraded.extra_files = contents.extra_files
    return upgraded
