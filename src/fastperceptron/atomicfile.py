"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable

__all__ = ["write_atomically"]


def write_atomically(path: str | os.PathLike[str], chunks: Iterable[bytes | memoryview]) -> None:
    """Replace the file at ``path`` by the chunks, durably: whoever looks sees the old file or the new one, whole.

    Writes a temporary file in the same directory, fsyncs and renames it, and fsyncs the directory. When anything
    fails, Ctrl-C included, the temporary file is removed and the old file stays. Permissions of an existing file are
    kept; a symbolic link is followed.
    """
    target = os.path.realpath(os.fsdecode(path))
    exists, mode = os.path.exists(target), 0o666
    if exists:
        if not os.path.isfile(target):
            raise OSError(f"cannot write {os.fsdecode(path)!r}: expected a regular file or none; it is something else")
        mode = os.stat(target).st_mode & 0o777
    directory = os.path.dirname(target)
    if not os.path.isdir(directory):
        raise FileNotFoundError(errno.ENOENT, "the directory does not exist", directory)
    temporary = os.path.join(directory, f".fastperceptron-{os.urandom(8).hex()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(temporary, flags, mode)
        with open(descriptor, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if exists:
            os.chmod(temporary, mode)  # the umask applied above must not narrow what the old file allowed
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_directory(directory)


def _sync_directory(directory: str) -> None:
    """Make the rename durable; file systems and systems that cannot (Windows) keep it in order anyway."""
    if os.name == "nt":
        return
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except PermissionError:  # a directory one may write to and not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
