"""Files that appear whole and together or not at all, on disks that are full or may only be read."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from heimdall_lab.core import files
from heimdall_lab.core.files import StoreError, UnwritableError, locked, new_folder, write_files, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_appear_together_or_not_at_all(tmp_path, full_disk):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("earlier")
    writes = {first: lambda path: path.write_text("new"), second: lambda path: path.write_bytes(bytes(2000))}
    refusal = (
        rf"out: cannot write to '{tmp_path}' \(File too large; second takes more than 1 kB, .*B are free there\); "
    )
    with full_disk(1000), pytest.raises(UnwritableError, match=rf"{refusal}choose a folder .* make room and run"):
        write_files(writes)
    assert names(tmp_path) == ["first"]
    assert first.read_text() == "earlier"
    write_files(writes)
    assert (first.read_text(), second.stat().st_size) == ("new", 2000)
    assert names(tmp_path) == ["first", "second"]


@pytest.mark.parametrize("linked", [True, False])
def test_a_file_that_cannot_get_its_name_takes_the_others_back(tmp_path, monkeypatch, linked):
    paths = [tmp_path / name for name in ("kept", "new", "last")]
    paths[0].write_text("earlier")
    replace = Path.replace

    def refusing(path, target):
        if target == paths[-1]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(path, target)

    def unknown(_path, target):
        target.stat()
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refusing)
        if not linked:
            patch.setattr(Path, "hardlink_to", unknown)
        with pytest.raises(UnwritableError, match="No space left on device"):
            write_files({path: lambda temporary: temporary.write_text("now") for path in paths})
    assert names(tmp_path) == ["kept"]
    assert paths[0].read_text() == "earlier"


def test_what_is_larger_than_the_room_is_refused_before_it_is_written(tmp_path):
    with pytest.raises(UnwritableError, match=r"out: '.*huge' takes 1,?000 EB, and .*B are free there; make room"):
        write_files({tmp_path / "huge": lambda path: path.write_text("")}, needed_bytes=10**21)
    with pytest.raises(UnwritableError, match=r"folder: .*new' takes"), new_folder(tmp_path / "new", "folder", 10**21):
        pass
    assert names(tmp_path) == []


def test_a_folder_in_the_place_of_a_file_is_left(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(UnwritableError, match="Is a directory"):
        write_files({tmp_path / name: lambda path: path.write_text("") for name in "ab"})
    assert names(tmp_path) == ["b"]


def test_a_read_only_folder_is_named_with_the_remedy(read_only):
    folder, forbid = read_only
    forbid(folder)
    with pytest.raises(StoreError, match=rf"report: cannot write to '{folder}' \(Permission denied; .*choose a folder"):
        write_text(folder / "page.html", "text", "report")
    with pytest.raises(OSError, match="Permission denied"), new_folder(folder / "new"):
        pass


def test_what_killed_processes_left_is_removed_unless_somebody_writes_there(tmp_path):
    (tmp_path / f".page.{'0' * 16}.tmp").write_text("half")
    (tmp_path / f".page.{'1' * 16}.tmp").mkdir()
    (tmp_path / f".other.{'0' * 16}.tmp").write_text("of somebody else")
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)  # as another process that writes there has it
    write_text(tmp_path / "page", "whole")
    assert len(names(tmp_path)) == 4
    os.close(descriptor)
    write_text(tmp_path / "page", "whole")
    assert names(tmp_path) == [f".other.{'0' * 16}.tmp", "page"]


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path, full_disk):
    def fill(folder):
        with new_folder(folder, "folder") as temporary:
            (temporary / "small").write_text("x")
            (temporary / "large").write_bytes(bytes(2000))

    with full_disk(1000), pytest.raises(UnwritableError, match=r"folder: cannot write to .*new' \(File too large"):
        fill(tmp_path / "new")
    assert names(tmp_path) == []
    fill(tmp_path / "new")
    assert names(tmp_path / "new") == ["large", "small"]


def test_a_lock_that_cannot_be_written_is_not_left(tmp_path, full_disk):
    with full_disk(0), pytest.raises(UnwritableError, match="cannot write to"), locked(tmp_path):
        pass
    assert names(tmp_path) == []
    with locked(tmp_path):
        assert names(tmp_path) == [files.LOCK]
