"""MD17 and revised MD17 from the network, whole or not at all; addresses and file names are PyG's."""

from __future__ import annotations

import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from dcsurgery.errors import BadInput

__all__ = ["cache_folder", "downloaded", "is_remote"]

_PREFIXES = {"md17:": "", "rmd17:": "revised "}


def is_remote(source: str) -> bool:
    """Return whether a source is ``md17:NAME`` or ``rmd17:NAME``."""
    return source.startswith(tuple(_PREFIXES))


def cache_folder() -> Path:
    """Return where downloads are kept: ``DCSURGERY_CACHE``, or ``dcsurgery`` in the user's cache folder."""
    base = os.environ.get("DCSURGERY_CACHE")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dcsurgery"


def downloaded(source: str) -> Path:
    """Return the npz file of a molecule, downloaded if it is not in the cache yet.

    Parameters
    ----------
    source
        ``md17:ethanol``, ``rmd17:aspirin``, …

    Raises
    ------
    BadInput
        If there is no such molecule, or the download fails; nothing is left in the cache then.
    """
    from torch_geometric.datasets import MD17

    prefix = next(prefix for prefix in _PREFIXES if source.startswith(prefix))
    name = _PREFIXES[prefix] + source.removeprefix(prefix).replace("_", " ").strip()
    known = {key: file for key, file in MD17.file_names.items() if file.endswith(".npz")}
    if name not in known:
        short = [key.removeprefix("revised ") for key in known if key.startswith("revised ") == bool(_PREFIXES[prefix])]
        raise BadInput(f"unknown molecule {name!r}", where=source, fix=f"known are {', '.join(sorted(short))}")
    folder = cache_folder() / "md17"
    target = folder / known[name]
    if target.is_file():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Same folder, so that the finished file moves into place in one step.
        with tempfile.TemporaryDirectory(prefix="download-", dir=folder) as temporary:
            if _PREFIXES[prefix]:
                archive = _download(MD17.revised_url, temporary)
                found = _extracted(archive, known[name], Path(temporary))
            else:
                found = _download(f"{MD17.gdml_url}/{known[name]}", temporary)
            found.replace(target)
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001 - network, proxy, disk and archive each fail in their own way
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise BadInput(
            f"the download failed ({reason})",
            where=source,
            fix=f"try again, or put {known[name]} into {folder}, or give the path of a file that you have",
        ) from None
    return target


def _download(url: str, folder: str) -> Path:
    from torch_geometric.data import download_url

    return Path(download_url(url, folder, log=False))


def _extracted(archive: Path, name: str, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        member: Any = next((one for one in tar if Path(one.name).name == name and one.isfile()), None)
        if member is None:
            raise BadInput(f"the archive has no {name}", where=str(archive))
        member.name = name
        tar.extract(member, folder, filter="data")
    return folder / name
