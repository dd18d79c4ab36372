"""A command that is interrupted while it loads: interrupted_load.py PROGRAM MODULE IGNORED.

Ctrl-C comes when migrate.cli.MODULE is looked for. With IGNORED of "ignored" SIGINT is ignored, as
nohup(1) does it for SIGHUP.
"""

import os
import signal
import sys


class Finder:
    """A finder of modules that finds none, and interrupts the search for one."""

    interrupted = f"migrate.cli.{sys.argv[2]}"

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> None:
        if name == cls.interrupted:
            os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    program, _, ignored = sys.argv[1:]
    sys.meta_path.insert(0, Finder)
    if ignored == "ignored":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    from migrate.cli import entry

    main = {"migrate": entry.migrate, "migratectl": entry.migratectl}[program]
    sys.argv = [program, "--version"]
    sys.exit(main())
