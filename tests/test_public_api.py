"""The public names and their signatures are those of the golden file.

A change of the public API shows as a change of ``tests/golden/public_api.txt``. After one that is meant::

    python tests/test_public_api.py

writes the file anew; say in CHANGELOG.md what users have to do.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden" / "public_api.txt"
MODULES = ("dcsurgery", "dcsurgery.passes", "dcsurgery.activations")


def described(name, value):
    """Return one line for a function or value, and one for each public member of a class."""
    if inspect.isclass(value):
        yield f"class {name}{signature(value)}"
        for member, raw in sorted(vars(value).items()):
            if member.startswith("_") or member in ("action", "preserves", "leaves"):
                continue
            function = raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw
            if isinstance(raw, property):
                yield f"    {member}: property"
            elif inspect.isfunction(function):
                yield f"    {member}{signature(function)}"
    elif callable(value):
        yield f"{name}{signature(value)}"
    else:
        yield f"{name}: {type(value).__name__}"


def signature(value):
    # The constructors of exceptions and protocols that have none of their own differ between Python versions.
    try:
        return str(inspect.signature(value))
    except ValueError:
        return "(...)"


def public_api():
    lines = []
    for module_name in MODULES:
        module = import_module(module_name)
        lines.append(f"[{module_name}]")
        for name in sorted(module.__all__):
            lines += described(name, getattr(module, name))
        lines.append("")
    return "\n".join(lines)


def test_the_public_api_is_the_golden_one():
    assert public_api() == GOLDEN.read_text(encoding="utf-8")


def test_a_changed_signature_would_be_seen():
    assert list(described("f", lambda a, *, b=1: None)) == ["f(a, *, b=1)"]


@pytest.mark.parametrize("module_name", MODULES)
def test_every_public_name_is_documented(module_name):
    module = import_module(module_name)
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value):
            assert inspect.getdoc(value), f"{module_name}.{name}"


def test_names_are_listed_once_and_by_dir():
    import dcsurgery

    for module_name in MODULES:
        names = import_module(module_name).__all__
        assert len(set(names)) == len(names)
    assert set(dcsurgery.__all__) <= set(dir(dcsurgery))


def test_an_unknown_name_is_an_attribute_error():
    import dcsurgery

    with pytest.raises(AttributeError, match="module 'dcsurgery' has no attribute 'surgery_table'"):
        dcsurgery.surgery_table


def test_importing_the_package_imports_no_torch():
    code = "import sys, dcsurgery; assert dcsurgery.__version__; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_type_checkers_see_the_passes_that_the_folder_has():
    from dcsurgery import passes

    text = Path(passes.__file__).read_text(encoding="utf-8")
    for name in passes.__all__:
        assert name == "Candidate" or name in text, f"{name}: add it to the imports for type checkers"


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(public_api(), encoding="utf-8")
    sys.stdout.write(f"{GOLDEN} written\n")
