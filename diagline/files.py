"""Writing so that a reader sees the old file or the new one, never a half.

Files are written beside their target, synced and renamed. Folders are filled under a
temporary name beside their target, synced, and change places with it in one step where the
system can (Linux: renameat2), so that SIGKILL or a power cut at any moment finds one whole.
Leaves out: locking; two writers of one output are the caller's mistake.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diagline.errors import OutputError

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


def sha256_file(path: Path) -> str:
    """SHA-256 of a file as 64 lower-case hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` in one step.

    Raises:
        OutputError: the folder cannot be written to (missing rights, full disk).
    """
    _write(path, data, 0o666 & ~_umask(), os.replace)


def write_secret(path: Path, data: bytes) -> None:
    """Make `path` in one step, readable by its owner alone; raises as `write_bytes`, also where it is there already."""
    _write(path, data, 0o600, _link)


def _link(aside: str, path: Path) -> None:
    os.link(aside, path)  # unlike a rename it fails where something is there
    os.unlink(aside)


def _write(path: Path, data: bytes, mode: int, finish: Callable[[str, Path], None]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; expected a writable folder") from error
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(aside, mode)
        finish(aside, path)
    except OSError as error:
        Path(aside).unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror}; free some space and try again") from error
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` (UTF-8) in one step; raises as `write_bytes`."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by indented JSON with a final newline; raises as `write_bytes`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def place(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or where links cannot be made an equal one.

    Raises:
        OutputError: it cannot be written.
    """
    if target.exists():
        if os.path.samefile(source, target) or source.read_bytes() == target.read_bytes():
            return
    else:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, target)
        except OSError:  # another file system, or one without links
            pass
        else:
            return
    write_bytes(target, source.read_bytes())


@contextmanager
def folder_aside(target: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `target` when the block ends well.

    A target that exists is replaced; when the block raises it stays as it was and the
    half-filled folder is removed.

    Raises:
        OutputError: the parent cannot be written to; or the new folder is in place and the disk
            does not confirm it.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise OutputError(f"cannot write {target}: not a folder; expected a folder or nothing there; move it away")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror}; expected a writable folder") from error
    old = aside.with_name(aside.name + ".old")
    try:
        yield aside
        os.chmod(aside, 0o777 & ~_umask())
        for path in (*aside.rglob("*"), aside):
            _sync(path)
        if not target.exists():
            os.rename(aside, target)
        elif not _exchange(aside, target):
            os.rename(target, old)
            os.rename(aside, target)
    except OSError as error:
        _restore(aside, old, target)
        raise OutputError(f"cannot write {target}: {error.strerror}; free some space and try again") from error
    except BaseException:
        _restore(aside, old, target)
        raise
    try:
        _sync(target.parent)  # before the old one goes
    except OSError as error:
        raise OutputError(f"{target}: written, but the disk says {error.strerror}; check the disk") from error
    finally:
        for path in (aside, old):
            shutil.rmtree(path, ignore_errors=True)


def _restore(aside: Path, old: Path, target: Path) -> None:
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists() and not target.exists():
        os.rename(old, target)
    shutil.rmtree(old, ignore_errors=True)  # interrupted after the new folder came into place


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; False where kernel or file system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(code, os.strerror(code))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
