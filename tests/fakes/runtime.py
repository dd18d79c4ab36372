"""runtime.py SPEC: what runc does with CRIU, and nothing else.

The program is a process of its own, as any runtime is: the descriptor numbers in its requests mean
nothing in another process. It prints each event as a JSON object on a line. SPEC is a JSON object
with these fields:

    kind        VERSION, FEATURE_CHECK, DUMP or RESTORE
    images      the images directory of DUMP and RESTORE, which is passed by its descriptor number
    opts        further fields of criu_opts
    stall_at    a notification that is never answered
    fail_at     a notification that is answered with failure
    attach      a file whose descriptor goes along with the request
    log         a file for the standard error of CRIU
    hold_open   the socket stays open after the response, until the peer closes its end
    raw         hexadecimal bytes to send in place of a request
"""

import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 14):
    os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")

from pycriu import rpc_pb2 as rpc

#: Descriptors that nothing else of the process is likely to have.
IMAGES_FD, WORK_FD = 150, 151
Spec = dict[str, Any]


def tell(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


def request_of(spec: Spec) -> bytes:
    if "raw" in spec:
        return bytes.fromhex(spec["raw"])
    request = rpc.criu_req(type=rpc.criu_req_type.Value(spec["kind"]))
    if spec["kind"] == "FEATURE_CHECK":
        request.features.lazy_pages = True
    if "images" in spec:
        images, work = (
            open_directory(spec["images"], IMAGES_FD),
            open_directory(spec["images"], WORK_FD),
        )
        request.opts.images_dir_fd, request.opts.work_dir_fd = images, work
        request.opts.log_file = f"{spec['kind'].lower()}.log"
        request.opts.log_level = 4
        request.opts.notify_scripts = True
        request.opts.manage_cgroups = False
        request.opts.rst_sibling = spec["kind"] == "RESTORE"
        for name, value in spec.get("opts", {}).items():
            setattr(request.opts, name, value)
    return bytes(request.SerializeToString())


def open_directory(path: str, number: int) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, number)
    os.close(fd)
    return moved


def converse(peer: socket.socket, spec: Spec) -> None:
    attached = [os.open(spec["attach"], os.O_RDONLY)] if "attach" in spec else []
    socket.send_fds(peer, [request_of(spec)], attached)
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(peer, 1 << 20, 8)
        except ConnectionResetError:
            data, fds = b"", []
        if not data:
            tell("eof")
            return
        message = rpc.criu_resp()
        message.ParseFromString(data)
        if message.type != rpc.NOTIFY:
            tell("response", **described(message))
            if not spec.get("hold_open"):
                return
            continue
        script = message.notify.script
        tell(
            "notify",
            script=script,
            pid=message.notify.pid,
            fds=[os.readlink(f"/proc/self/fd/{fd}") for fd in fds],
        )
        for fd in fds:
            os.close(fd)
        if script != spec.get("stall_at"):
            answer = rpc.criu_req(type=rpc.NOTIFY, notify_success=script != spec.get("fail_at"))
            with contextlib.suppress(BrokenPipeError):  # the next read tells
                peer.send(answer.SerializeToString())


def described(message: Any) -> dict[str, Any]:
    version = message.version
    return {
        "kind": rpc.criu_req_type.Name(message.type),
        "success": message.success,
        "version": [version.major_number, version.minor_number, version.sublevel],
        "lazy_pages": message.features.lazy_pages,
        "pid": message.restore.pid,
        "text": message.cr_errmsg,
    }


def main() -> None:
    spec = json.loads(sys.argv[1])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, Path(spec["log"]).open("ab") as log:
        criu = subprocess.Popen(
            ["criu", "swrk", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    tell("started", criu=criu.pid)
    with ours, contextlib.suppress(BrokenPipeError):  # CRIU ended before it read
        converse(ours, spec)
    tell("ended", status=criu.wait())


if __name__ == "__main__":
    main()
