"""Which modules count as installed, and the user's own model files.

A pickle may name classes of packages that somebody installed; a module that merely lies in the working directory is
not installed, even where Python would find it first.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import io
import json
import os
import site
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlparse

from dcsurgery.errors import BadInput

__all__ = ["import_files", "import_module", "is_installed", "looks_like_user_module"]


@functools.cache
def _owners() -> dict[str, list[str]]:
    return {name: list(owners) for name, owners in importlib.metadata.packages_distributions().items()}


@functools.cache
def _site_folders() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    folders = [paths["purelib"], paths["platlib"], *site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return tuple(Path(folder).resolve() for folder in folders)


def _editable_folders(distribution: str) -> Iterator[Path]:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        text = importlib.metadata.distribution(distribution).read_text("direct_url.json")
        entry = json.loads(text) if text else {}
        if entry.get("dir_info", {}).get("editable"):
            yield Path(unquote(urlparse(entry["url"]).path)).resolve()


def _locations(top: str) -> list[Path]:
    """Return where a top-level module is or would be loaded from, without loading it."""
    module = sys.modules.get(top)
    try:
        spec = module.__spec__ if module is not None else importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return []
    if spec is None:
        return []
    places = list(spec.submodule_search_locations or ()) or [spec.origin or ""]
    return [Path(place).resolve() for place in places if place]


@functools.cache
def is_installed(module: str) -> bool:
    """Return whether a module belongs to a distribution in ``site-packages`` or to an editable installation."""
    top = module.partition(".")[0]
    if top in ("torch", "dcsurgery"):  # they are running
        return True
    owners = _owners().get(top)
    places = _locations(top) if owners else []
    if not owners or not places:
        return False
    roots = [*_site_folders(), *(folder for owner in owners for folder in _editable_folders(owner))]
    return all(any(place.is_relative_to(root) for root in roots) for place in places)


def looks_like_user_module(module: str) -> bool:
    """Return whether a module is neither installed nor part of Python: probably somebody's own file."""
    top = module.partition(".")[0]
    return top == "__main__" or (top not in sys.stdlib_module_names and not is_installed(module))


def import_module(name: str) -> ModuleType:
    """Import an installed module without letting it print or change process-wide settings.

    DeepXDE chooses a backend when it is first imported, may write that choice to the home folder, and announces it on
    standard output, where ``--json`` promises one document and nothing else.
    """
    known = sys.modules.get(name)
    if known is not None:
        return known
    if name.startswith("deepxde."):
        os.environ.setdefault("DDE_BACKEND", "pytorch")
    if name.startswith("fairchem."):
        _provide_what_fairchem_imports()
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(), _same_default_device():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def _provide_what_fairchem_imports() -> None:
    # fairchem-core 1.x imports packages that it does not declare; the zoo has stand-ins. By name: it can be left out. What
    # is wrong with the installation, the import of the module itself will tell.
    with contextlib.suppress(Exception):
        importlib.import_module("dcsurgery.zoo.ocp.fairchem").require()


@contextlib.contextmanager
def _same_default_device() -> Iterator[None]:
    import torch

    before = torch.get_default_device()
    yield
    if torch.get_default_device() != before:
        torch.set_default_device(None if before.type == "cpu" else before)


def import_files(paths: Iterable[str | os.PathLike[str]]) -> dict[str, ModuleType]:
    """Import the user's own model files, each under its stem.

    Parameters
    ----------
    paths
        Python files, or folders of packages.

    Returns
    -------
    dict
        Module name to module.

    Raises
    ------
    BadInput
        If a file is missing, is not Python, fails while it is imported, or has the name of another module.
    """
    modules = {}
    for path in paths:
        module = _import_file(Path(path))
        modules[module.__name__] = module
    return modules


def _import_file(path: Path) -> ModuleType:
    where = str(path)
    code = path / "__init__.py" if path.is_dir() else path
    name = path.resolve().name if path.is_dir() else path.stem
    if not code.is_file():
        raise BadInput("no such Python file to import", where=where, fix="give the file that defines the model class")
    if code.suffix != ".py" or not name.isidentifier():
        raise BadInput("not a Python module that can be imported", where=where, fix="give a .py file or a package")
    known = sys.modules.get(name)
    if known is not None and _file(known) == code.resolve():
        return known
    if known is not None or name in sys.stdlib_module_names or is_installed(name):
        raise BadInput(f"a module called {name!r} exists already", where=where, fix="rename the file")
    spec = importlib.util.spec_from_file_location(
        name, code, submodule_search_locations=[str(path.resolve())] if path.is_dir() else None
    )
    assert spec is not None
    assert spec.loader is not None  # a .py file always has one
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # The file may import its neighbours, as it could when Python ran it.
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, Exception | SystemExit):  # Ctrl-C is not the file's fault
            raise
        raise BadInput(
            f"fails when it is imported: {type(error).__name__}: {error}", where=where, fix="make it importable"
        ) from None
    finally:
        sys.path.remove(folder)
    return module


def _file(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file else None
