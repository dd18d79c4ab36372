"""Files of a test's own in place of files of /proc."""

from pathlib import Path

import pytest

from checkpoint.host import proc


def show_in_proc(monkeypatch: pytest.MonkeyPatch, directory: Path, files: dict[str, str]) -> None:
    """Have proc.path lead to files with these contents, by their paths beneath /proc.

    The files are made in `directory`. All other files of /proc are the real ones.
    """
    real = proc.path
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)

    def path(*names: int | str) -> str:
        name = "/".join(map(str, names))
        return str(directory / name) if name in files else real(*names)

    monkeypatch.setattr(proc, "path", path)
