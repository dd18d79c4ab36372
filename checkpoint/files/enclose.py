#!/usr/bin/python3 -IS
"""A lone program that becomes another one in an enclosure, where a tree is all there is to see.

The tree is at /tree. Besides it there are only the files that the other program needs, read-only.

A container may put a symlink where a directory was a moment ago. A program that copies the tree as
root of the host would follow the symlink to the host's files. In the enclosure the symlink leads
nowhere: the program is in a mount namespace whose root holds only the files named above
(pivot_root(2)), and a Landlock ruleset (landlock(7)) enforces the same a second time.

A lone program uses the standard library only. checkpoint/files/enclosure.py starts this one with
these arguments:

    TREE NAMESPACE GATE HANDED COUNT FILE... PROGRAM ARGUMENT...

TREE is a descriptor of the tree's root. NAMESPACE is a descriptor of the mount namespace that TREE
is in, or `-` for the caller's own. GATE is a descriptor that stays open until PROGRAM runs, or `-`.
HANDED are the descriptors that PROGRAM gets as 3, 4 and so on, joined by commas, or `-`. The COUNT
FILEs are the files that PROGRAM needs, PROGRAM itself included.
"""

import ctypes
import fcntl
import os
import struct
import sys

#: System calls without a wrapper in every C library; the numbers are those of x86_64 and of
#: aarch64.
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR = 428, 429, 442
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
#: fcntl(2), open_tree(2), move_mount(2), mount_setattr(2)
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
OPEN_TREE_CLONE, MOVE_MOUNT_F_EMPTY_PATH = 1, 4
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
#: unshare(2), mount(2), umount2(2)
CLONE_NEWNS = 1 << 17
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 2, 4, 1 << 14, 1 << 18
MNT_DETACH = 2
#: prctl(2), capabilities(7)
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
#: The capabilities to give files any owner, mode, device number and attribute: CHOWN, DAC_OVERRIDE,
#: DAC_READ_SEARCH, FOWNER, FSETID, SYS_ADMIN (trusted.*), MKNOD, SETFCAP.
KEPT_CAPABILITIES = {0, 1, 2, 3, 4, 21, 27, 31}
#: include/uapi/linux/landlock.h
LANDLOCK_CREATE_RULESET_VERSION, LANDLOCK_RULE_PATH_BENEATH = 1, 1
EXECUTE, READ_FILE, READ_DIR = 1 << 0, 1 << 2, 1 << 3
#: (version of Landlock's ABI, number of file system rights known since then)
LANDLOCK_FS_RIGHTS = ((1, 13), (2, 14), (3, 15), (5, 16))
LANDLOCK_NET_SINCE, LANDLOCK_SCOPED_SINCE, ALL_NET, ALL_SCOPED = 4, 6, 3, 3

TREE = "/tree"
#: A shell opens /dev/null as the input of its background commands. An empty file serves as well; it
#: is read-only, like everything but the tree.
NULL = "/dev/null"
#: The directory on which the new root is mounted first. Any directory would do, because no other
#: process is in the mount namespace.
SCAFFOLD = "/tmp"  # noqa: S108
#: Descriptors are moved to this number or above, out of the way of those that HANDED become.
OUT_OF_THE_WAY = 64
FAILED = 125

libc = ctypes.CDLL(None, use_errno=True)


def checked(what: str, result: int) -> int:
    """Return `result`; if it is negative, report `what` with errno's message, and exit."""
    if result < 0:
        sys.stderr.write(f"enclose: {what}: {os.strerror(ctypes.get_errno())}\n")
        sys.exit(FAILED)
    return result


def system_call(what: str, number: int, *arguments: "int | bytes | None") -> int:
    """Make the system call with this number and return its result.

    If the call fails, report it by the name `what`, and exit.
    """
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    return checked(what, libc.syscall(ctypes.c_long(number), *words))


def mount(source: bytes, target: bytes, kind: bytes, flags: int, options: bytes = b"") -> None:
    """Mount a file system (mount(2)), or exit."""
    checked("mount", libc.mount(source, target, kind, ctypes.c_ulong(flags), options))


def cloned(directory: int, path: str, attributes: int) -> int:
    """Return a descriptor of a detached mount of one file or directory, without mounts below it.

    `path` is relative to the descriptor `directory`; "" is the directory itself. `attributes` are
    MOUNT_ATTR_* flags.
    """
    flags = OPEN_TREE_CLONE | os.O_CLOEXEC | (0 if path else AT_EMPTY_PATH)
    clone = system_call(f"open_tree {path}", OPEN_TREE, directory, os.fsencode(path), flags)
    attr = struct.pack("QQQQ", attributes, 0, 0, 0)
    system_call("mount_setattr", MOUNT_SETATTR, clone, b"", AT_EMPTY_PATH, attr, len(attr))
    return clone


def cloned_tree(tree: int, namespace: "int | None") -> int:
    """Return a descriptor of a detached mount of the tree, as `cloned` does.

    Only a process in the mount namespace that the tree is in may clone the tree. `namespace` is a
    descriptor of it; None is the caller's own.
    """
    attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
    if namespace is None:
        return cloned(tree, "", attributes)
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    # Between both setns nothing is looked up by a path, which would lead to the container's files.
    checked("setns", libc.setns(namespace, CLONE_NEWNS))
    clone = cloned(tree, "", attributes)
    checked("setns", libc.setns(own, CLONE_NEWNS))
    os.close(own)
    return clone


def make_file(path: str) -> str:
    """Create an empty file where `path` will be when the working directory is the root.

    Returns the path relative to the working directory.
    """
    place = f".{path}"
    os.makedirs(os.path.dirname(place), exist_ok=True)
    os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    return place


def attach(clone: int, place: str) -> None:
    """Attach the detached mount `clone` at `place`, below the working directory, and close it."""
    arguments = (clone, b"", AT_FDCWD, os.fsencode(place), MOVE_MOUNT_F_EMPTY_PATH)
    system_call("move_mount", MOVE_MOUNT, *arguments)
    os.close(clone)


def enclose(tree: int, namespace: "int | None", files: "list[str]") -> None:
    """Move this process to a mount namespace that has only the tree, at TREE, and these files.

    Everything but the tree is read-only. Raises OSError, or exits.
    """
    attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
    clones = [(path, cloned(AT_FDCWD, path, attributes)) for path in files]
    root = cloned_tree(tree, namespace)
    checked("unshare", libc.unshare(CLONE_NEWNS))
    mount(b"none", b"/", b"none", MS_REC | MS_PRIVATE)
    mount(b"enclosure", SCAFFOLD.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=0755,size=1m")
    os.chdir(SCAFFOLD)
    os.mkdir(f".{TREE}")
    attach(root, f".{TREE}")
    for path, clone in clones:
        attach(clone, make_file(path))
    make_file(NULL)
    # The old root is then stacked upon the new one, and is detached next (pivot_root(2), NOTES).
    system_call("pivot_root", PIVOT_ROOT[os.uname().machine], b".", b".")
    checked("umount", libc.umount2(b".", MNT_DETACH))
    os.chdir("/")
    attr = struct.pack("QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
    system_call("mount_setattr", MOUNT_SETATTR, AT_FDCWD, b"/", 0, attr, len(attr))


def restrict() -> None:
    """Drop capabilities, and restrict access by Landlock to the tree and to reading the program.

    KEPT_CAPABILITIES are kept. Landlock also forbids TCP, and signals and abstract Unix sockets to
    processes outside, where this kernel's version of Landlock can. A kernel without Landlock is
    accepted.
    """
    for capability in range(64):
        if capability not in KEPT_CAPABILITIES:
            # Fails for a capability that this kernel does not have, which is no loss.
            libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0)
    checked("prctl", libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0))
    version = libc.syscall(
        ctypes.c_long(LANDLOCK_CREATE_RULESET), None, 0, LANDLOCK_CREATE_RULESET_VERSION
    )
    if version < 1:
        return  # this kernel has no Landlock
    every = (1 << max(rights for since, rights in LANDLOCK_FS_RIGHTS if since <= version)) - 1
    handled = [every]
    handled += [ALL_NET] if version >= LANDLOCK_NET_SINCE else []
    handled += [ALL_SCOPED] if version >= LANDLOCK_SCOPED_SINCE else []
    attr = struct.pack(f"{len(handled)}Q", *handled)
    ruleset = system_call("landlock_create_ruleset", LANDLOCK_CREATE_RULESET, attr, len(attr), 0)
    for path, rights in ((TREE, every), ("/", EXECUTE | READ_FILE | READ_DIR)):
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", rights, beneath)
        system_call(
            "landlock_add_rule", LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0
        )
        os.close(beneath)
    system_call("landlock_restrict_self", LANDLOCK_RESTRICT_SELF, ruleset, 0)


def main() -> None:
    """Enclose and restrict this process, then become PROGRAM."""
    tree, namespace, gate, handed, count, *rest = sys.argv[1:]
    files, argv = rest[: int(count)], rest[int(count) :]
    own = {
        number: fcntl.fcntl(int(number), fcntl.F_DUPFD_CLOEXEC, OUT_OF_THE_WAY)
        for number in (tree, namespace, gate, *handed.split(","))
        if number != "-"
    }
    given = [own[number] for number in handed.split(",") if number != "-"]
    # The program must not inherit the originals, whose numbers may be any.
    for name in own:
        os.close(int(name))
    try:
        enclose(own[tree], own.get(namespace), files)
    except OSError as error:
        sys.exit(f"enclose: {error}")
    restrict()
    for number, fd in enumerate(given, 3):
        os.dup2(fd, number, inheritable=True)
    os.execv(argv[0], argv)  # noqa: S606  (to become PROGRAM is the point)


if __name__ == "__main__":
    main()
