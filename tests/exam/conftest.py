"""Settings of the exam: collected only when it is asked for, one thread, the score at the end."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Keep other runs from importing the libraries that the exam's models come from: that takes half a minute."""
    asked = config.option.markexpr
    return True if collection_path.name.startswith("test_") and asked in {"", "not exam"} else None


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let tests set torch's flags again, as fairchem's trainers do: importing torch's own tables of tests forbids it."""
    del session
    torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = True


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """The models here are tiny: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the score."""
    from exam.scoring import SCORES

    lines = list(SCORES.lines())
    if lines:
        terminalreporter.section("exam")
        terminalreporter.write_line("\n".join(lines))
