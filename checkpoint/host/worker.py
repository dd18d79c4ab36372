"""The one door to threads: a thread whose result or failure belongs to whoever waits for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")


class Worker(Generic[T]):
    """A thread that runs one function, and begins at once.

    The thread ends with the program, whatever it is doing. `failure` is the error that the function
    has raised, if any; it is logged too, because nobody may wait for the worker. Raises
    RuntimeError if no thread can be started.
    """

    def __init__(self, name: str, function: Callable[[], T]) -> None:
        self._function = function
        self._results: list[T] = []
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the function has returned or failed; return whether it has in `timeout_s`."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def result(self) -> T:
        """Wait for the function, and return its result. Raises what the function has raised."""
        self._thread.join()
        if self.failure is not None:
            raise self.failure
        return self._results[0]

    def _run(self) -> None:
        try:
            self._results.append(self._function())
        except Exception as error:
            self.failure = error
            log.debug("thread %s failed", self._thread.name, exc_info=True)
