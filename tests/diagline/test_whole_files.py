"""A reader sees the old file or the new one, whichever operation fails or is interrupted."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import signal
import stat
from pathlib import Path
from types import ModuleType

import pytest

from diagline import files
from diagline.errors import OutputError

OPERATIONS = ("chmod", "fsync", "rename", "replace")


def watched() -> list[tuple[ModuleType, str]]:
    """Every operation that changes what a reader finds, as (module, name)."""
    return [*((os, name) for name in OPERATIONS), (files, "_exchange")]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


class Faults:
    """Counts the file operations that pass and breaks off at the nth: before it, or just after it."""

    def __init__(self, monkeypatch, nth, error, after=False):
        self.count, self.nth, self.error, self.after = 0, nth, error, after
        for module, name in watched():
            monkeypatch.setattr(module, name, self.wrap(getattr(module, name)))

    def wrap(self, real):
        def call(*args, **named):
            self.count += 1
            hit = self.count == self.nth
            if hit and not self.after:
                raise self.error
            result = real(*args, **named)
            if hit:
                raise self.error
            return result

        return call


def fill(target: Path) -> None:
    with files.folder_aside(target) as aside:
        (aside / "new").mkdir()
        (aside / "new/a.txt").write_bytes(b"new a")
        (aside / "b.txt").write_bytes(b"new b")


def fill_without_exchange(target: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_exchange", lambda one, other: False)
        fill(target)


def put(target: Path) -> None:
    files.write_bytes(target, b"new")


def old_folder(target: Path) -> None:
    target.mkdir()
    (target / "old.txt").write_bytes(b"old")


def old_file(target: Path) -> None:
    target.write_bytes(b"old")


WRITERS = [
    pytest.param(fill, old_folder, id="folder"),
    pytest.param(fill_without_exchange, old_folder, id="folder, no exchange"),
    pytest.param(put, old_file, id="file"),
]


def operations(write, prepare, folder: Path, existed: bool = True) -> int:
    """How many operations one undisturbed write takes."""
    folder.mkdir()
    if existed:
        prepare(folder / "out")
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch, 0, None)
        write(folder / "out")
    return faults.count


@pytest.mark.parametrize(("write", "prepare"), WRITERS)
@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_whichever_operation_fails_the_old_stays_whole_and_nothing_else_is_left(
    write, prepare, existed, code, tmp_path
):
    total = operations(write, prepare, tmp_path / "count", existed)
    assert total >= 3
    for nth in range(1, total + (write is put)):  # a folder's last: the disk confirms what is in place
        folder = tmp_path / f"{nth}"
        folder.mkdir()
        if existed:
            prepare(folder / "out")
        before = snapshot(folder)
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, nth, OSError(code, os.strerror(code)))
            with pytest.raises(OutputError, match=f"cannot write {folder / 'out'}: {os.strerror(code)}"):
                write(folder / "out")
        assert faults.count >= nth
        assert snapshot(folder) == before


@pytest.mark.parametrize("write", [fill, fill_without_exchange])
def test_a_disk_that_does_not_confirm_the_new_folder_is_told_and_the_new_stays_whole(write, tmp_path):
    total = operations(write, old_folder, tmp_path / "count")
    (tmp_path / "one").mkdir()
    old_folder(tmp_path / "one/out")
    with pytest.MonkeyPatch.context() as patch:
        Faults(patch, total, OSError(errno.EIO, os.strerror(errno.EIO)))
        with pytest.raises(OutputError, match="written, but the disk says"):
            write(tmp_path / "one/out")
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "count")


def test_sigkill_at_any_operation_leaves_the_old_or_the_new_folder_at_its_place(tmp_path):
    """Before and after each operation: what is in place is what a kill at that moment would leave."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    if not files._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this kernel or file system cannot let two folders change places")
    target, seen = tmp_path / "out", []
    old_folder(target)

    def watch(real):
        def call(*args, **named):
            seen.append(snapshot(target))
            result = real(*args, **named)
            seen.append(snapshot(target))
            return result

        return call

    old = snapshot(target)
    with pytest.MonkeyPatch.context() as patch:
        for module, name in (*watched(), (shutil, "rmtree")):
            patch.setattr(module, name, watch(getattr(module, name)))
        fill(target)
    new = snapshot(target)
    assert [found for found in seen if found not in (old, new)] == [] and seen[0] == old and seen[-1] == new


@pytest.mark.parametrize("write", [fill, fill_without_exchange])
def test_a_folder_is_on_the_disk_before_it_comes_into_place_and_in_place_before_the_old_one_goes(write, tmp_path):
    done, target = [], tmp_path / "out"
    old_folder(target)

    def note(name, real):
        def call(*args, **named):
            done.append(os.readlink(f"/proc/self/fd/{args[0]}") if name == "fsync" else name)
            return real(*args, **named)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module, name in (*watched(), (shutil, "rmtree")):
            patch.setattr(module, name, note(name, getattr(module, name)))
        write(target)
    swap = next(place for place, name in enumerate(done) if name in ("_exchange", "rename"))
    aside = re.sub(r"/(new|b\.txt|new/a\.txt)$", "", done[swap - 1])
    assert sorted(done[1:swap]) == [aside, f"{aside}/b.txt", f"{aside}/new", f"{aside}/new/a.txt"]
    assert done.index(str(tmp_path)) == done.index("rmtree") - 1 > swap - 1


@pytest.mark.parametrize(("write", "prepare"), WRITERS)
@pytest.mark.parametrize("after", [False, True])
def test_ctrl_c_at_any_operation_leaves_the_old_or_the_new_whole(write, prepare, after, tmp_path):
    total = operations(write, prepare, tmp_path / "count")
    new = snapshot(tmp_path / "count")
    seen = set()
    for nth in range(1, total + 1):
        folder = tmp_path / f"{nth}"
        folder.mkdir()
        prepare(folder / "out")
        old = snapshot(folder)
        with pytest.MonkeyPatch.context() as patch:
            Faults(patch, nth, KeyboardInterrupt(), after)
            with pytest.raises(KeyboardInterrupt):
                write(folder / "out")
        assert snapshot(folder) in (old, new)
        seen.add("old" if snapshot(folder) == old else "new")
    assert seen == ({"old"} if write is put and not after else {"old", "new"})


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OutputError("x"), SystemExit(3)])
def test_a_block_that_raises_leaves_the_old_folder_and_its_error(error, tmp_path):
    old_folder(tmp_path / "out")
    before = snapshot(tmp_path)

    def broken_off():
        with files.folder_aside(tmp_path / "out") as aside:
            (aside / "half.txt").write_bytes(b"half")
            raise error

    with pytest.raises(type(error)) as caught:
        broken_off()
    assert caught.value is error and snapshot(tmp_path) == before


def test_a_file_that_outgrows_its_room_while_it_is_written_leaves_the_old(tmp_path):
    target = tmp_path / "out"
    target.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(OutputError, match="cannot write"):
            files.write_bytes(target, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert snapshot(tmp_path) == {"out": b"old"}


def test_a_folder_becomes_the_target_only_when_whole(tmp_path):
    target = tmp_path / "deep/er/out"
    with files.folder_aside(target) as aside:
        (aside / "a").write_bytes(b"a")
        assert not target.exists() and aside.parent == target.parent
    assert snapshot(target.parent) == {"out": None, "out/a": b"a"}


def test_a_new_folder_replaces_all_of_the_old(tmp_path):
    old_folder(tmp_path / "out")
    fill(tmp_path / "out")
    assert snapshot(tmp_path) == {"out": None, "out/b.txt": b"new b", "out/new": None, "out/new/a.txt": b"new a"}


def test_written_files_and_folders_have_the_rights_the_umask_grants(tmp_path):
    mask = os.umask(0o027)
    try:
        put(tmp_path / "file")
        fill(tmp_path / "folder")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


@pytest.mark.parametrize("write", [fill, put])
def test_a_parent_that_is_a_file_is_refused(write, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OutputError, match=r"cannot write .*file/out"):
        write(tmp_path / "file/out")
    assert snapshot(tmp_path) == {"file": b"x"}


def test_a_folder_never_takes_the_place_of_a_file_or_a_link(tmp_path):
    old_file(tmp_path / "out")
    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home")
    for name in ("out", "link"):
        with pytest.raises(OutputError, match="not a folder"):
            fill(tmp_path / name)
    assert snapshot(tmp_path) == {"home": None, "link": None, "out": b"old"}
    assert (tmp_path / "link").is_symlink()


def test_json_and_text_are_utf_8_and_end_with_a_newline(tmp_path):
    files.write_json(tmp_path / "a.json", {"name": "Prüfstück", "n": 1})
    data = (tmp_path / "a.json").read_bytes()
    assert data.endswith(b"}\n") and "Prüfstück".encode() in data and json.loads(data)["n"] == 1


def test_sha256_of_a_known_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
