"""A process that aborts: aborts.py KEPT HOW.

With KEPT of "kept" it keeps its memory to itself before. HOW says which process aborts: "aborted"
is this one; "forked" is a child, and this process ends with 77 if the child dumped core;
"executed" is another program in this one's place.
"""

import os
import resource
import sys

from checkpoint.host import own_process

if __name__ == "__main__":
    kept, how = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if kept == "kept":
        own_process.keep_to_itself()
    if how == "forked" and (pid := os.fork()):
        os._exit(os.WCOREDUMP(os.waitpid(pid, 0)[1]) and 77)
    if how == "executed":
        os.execl(sys.executable, sys.executable, "-c", "import os; os.abort()")  # noqa: S606
    os.abort()
