"""The examples of README.md and docs/ run as they are printed: Python in order, commands with exit code 0."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = Path(sys.executable).with_name("dcsurgery")


def blocks(page: Path) -> list[tuple[str, str, int]]:
    """Return language, text and first line of the blocks of a page."""
    text = page.read_text(encoding="utf-8")
    return [(m[1], m[2], text.count("\n", 0, m.start(2)) + 1) for m in BLOCK.finditer(text)]


def run_python(code: str, line: int, page: Path, names: dict[str, object]) -> None:
    # Empty lines in front make the line numbers of a traceback those of the page.
    exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)


def run_console(text: str) -> None:
    for line in text.splitlines():
        if not line.startswith("$ "):
            continue
        words = shlex.split(line.removeprefix("$ "))
        assert words[0] == "dcsurgery", f"only dcsurgery's own commands are run: {line}"
        done = subprocess.run([COMMAND, *words[1:]], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\nexit code {done.returncode}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_examples_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "example"}
    # Classes that an example defines pickle by this module's name.
    monkeypatch.setitem(sys.modules, "example", type(sys)("example"))
    vars(sys.modules["example"]).update(names)
    for language, text, line in blocks(page):
        if language == "python":
            run_python(text, line, page, vars(sys.modules["example"]))
        else:
            run_console(text)


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", prose):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_readme_names_every_make_target_that_a_newcomer_needs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake ([a-z]+)", text))
    assert {"install", "demo", "test", "docs"} <= named
    assert named <= {*re.findall(r"^([a-z]+):", makefile, re.MULTILINE)}


def test_pages_show_text_and_python_that_can_be_told_apart() -> None:
    languages = {"python", "console", "text", "sh", "yaml", "json", "{toctree}", "{eval-rst}"}
    for page in PAGES:
        fences = re.findall(r"^```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert len(fences) % 2 == 0, f"{page.name}: a block is not closed"
        assert set(fences[::2]) <= languages, f"{page.name}: {set(fences[::2]) - languages}"


def test_the_pages_are_not_built_when_the_notebook_misses_a_display(tmp_path: Path) -> None:
    errors = pytest.importorskip("sphinx.errors", reason="sphinx is not installed")
    conf = runpy.run_path(str(ROOT / "docs" / "conf.py"))
    page = tmp_path / "notebooks" / "displays.html"
    page.parent.mkdir()
    app = SimpleNamespace(builder=SimpleNamespace(format="html"), outdir=str(tmp_path))
    captions = [
        "Net: 3 activations, 2 normalizations, 2 gates",
        "plan for Net: 5 edits",
        "Net: 5 edits made",
        "all checks passed",
        "Net: 3 replaced, 2 deleted; modules 15 =&gt; 13",
    ]
    shown = [f"<caption>{caption}</caption>" for caption in captions]
    shown += [f'<img alt="{caption}" src="data:image/svg+xml;base64,x">' for caption in (captions[0], captions[-1])]
    page.write_text("".join(shown), encoding="utf-8")
    conf["check_displays"](app, None)
    for missing in shown:
        page.write_text("".join(item for item in shown if item != missing), encoding="utf-8")
        with pytest.raises(errors.ExtensionError, match="does not show"):
            conf["check_displays"](app, None)
