"""A process that knows nothing of this one, started early: it imports while this one works, and waits for its job.

Whoever will write a file starts it at the beginning. What it imports meanwhile (torch, dcsurgery, the packages that the
input file names) costs no time of its own where there is a second core. It never outlives the process that started it:
it ends when its standard input is closed, whatever closed it.

This module imports neither torch nor anything that does, so that the process can be started before torch is imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from dcsurgery.errors import BadInput

__all__ = ["FreshProcess", "main"]

_MODULE = "dcsurgery.fresh_process"


class FreshProcess:
    """The process that will read a written file: a context manager, which ends it.

    Parameters
    ----------
    source
        The file that the model comes from: the process imports the packages that it names, and loads nothing of it.
    trust, imports
        How that file is read, see `dcsurgery.files.read`.
    """

    def __init__(self, source: Path | None = None, *, trust: bool = False, imports: Sequence[Path] = ()) -> None:
        self._source = source
        self._trust = trust
        self._imports = tuple(imports)
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None

    def start(self) -> Self:
        """Start the process; where that fails, `send` tries again."""
        with contextlib.suppress(OSError):
            self._spawn()
            self._tell(self._expect())
        return self

    def prepare(self, modules: Iterable[str]) -> None:
        """Let the process import modules while it waits."""
        with contextlib.suppress(OSError):
            self._tell({"import": sorted(set(modules))})

    def send(self, job: Mapping[str, Any]) -> None:
        """Give the process its job; see `dcsurgery.files.recheck.answer`.

        Raises
        ------
        BadInput
            If no process can be started.
        """
        message = {"job": dict(job), "path": [entry or str(Path.cwd()) for entry in sys.path]}
        try:
            if self._process is not None and self._process.poll() is None:
                self._tell(message)
                return
        except OSError:  # it has died since
            pass
        self.close()
        try:
            self._spawn()
            self._tell(message)
        except OSError as error:
            # A process that died at once is told from its exit status.
            if self._process is None:
                raise BadInput(
                    f"the checking process could not be started: {error.strerror or error}",
                    fix="free some memory, or end some programs",
                ) from None

    def wait(self) -> str:
        """Wait until the job is done and the process has ended; return the last line of what it complained about."""
        assert self._process is not None
        assert self._errors is not None
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {status}"

    def close(self) -> None:
        """End the process, whatever it is doing."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            with contextlib.suppress(OSError):  # what it never read is of no use any more
                assert process.stdin is not None
                process.stdin.close()
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _expect(self) -> dict[str, Any]:
        source = None if self._source is None else str(self._source.resolve())
        imports = [str(file.resolve()) for file in self._imports]
        return {"expect": {"source": source, "trust": self._trust, "imports": imports}}

    def _spawn(self) -> None:
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        command = [sys.executable, "-P", "-W", "ignore", "-m", _MODULE]
        self._process = subprocess.Popen(  # noqa: S603 - ourselves
            command,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # what a model prints while it is read
            stderr=self._errors,
        )

    def _tell(self, message: Mapping[str, Any]) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()


def main() -> None:
    """Do what the process that started this one says, line by line, until it has given the job; then end."""
    messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(messages,), daemon=True).start()
    from dcsurgery.files import recheck

    while True:
        message = messages.get()
        if "job" in message:
            sys.path[:] = message["path"]
            recheck.answer(message["job"])
            sys.stderr.flush()
            os._exit(0)  # nothing is left to tidy up, and tidying up a large model takes long
        recheck.prepare(message.get("expect"), message.get("import", ()))


def _listen(messages: queue.SimpleQueue[dict[str, Any]]) -> None:
    """Take in messages; without the process that sends them there is nothing more to do."""
    for line in sys.stdin.buffer:
        messages.put(json.loads(line))
    os._exit(1)


if __name__ == "__main__":
    main()
