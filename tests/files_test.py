"""Writing files: each is whole or not there, and what cannot be written is one line."""

import os

import pytest

from tf_blurdiff import files
from tf_blurdiff.errors import UserError
from tf_blurdiff.files import (
    expanded,
    remove_unfinished,
    shipped_files,
    writable_file,
    writable_folder,
    write_atomically,
    writing,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    path, seen = tmp_path / "a.txt", []
    path.write_text("old")

    def write(temporary):
        temporary.write_text("half")
        seen.extend([path.read_text(), temporary.suffix, temporary.parent])
        temporary.write_text("new")

    write_atomically(path, write)
    assert seen == ["old", ".txt", tmp_path]
    assert path.read_text() == "new" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [OSError(28, ""), KeyboardInterrupt, ValueError])
def test_what_fails_half_way_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("half")
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        write_atomically(path, write)
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_two_writers_at_once_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"

    def write(temporary):
        temporary.write_text("one")
        write_atomically(path, lambda other: other.write_text("two"), writer="-2")
        assert temporary.read_text() == "one"

    write_atomically(path, write, writer="-1")
    assert path.read_text() == "one" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    "error, reason",
    [
        (OSError(28, "a page of text\nof a library"), "No space left on device"),
        (OSError("encoder error -2\nwhen writing"), "encoder error -2"),
        (OSError(None, "disk\nis gone"), "disk"),
        (OSError(), "OSError"),
    ],
)
def test_what_cannot_be_written_is_one_line(error, reason):
    with pytest.raises(UserError) as caught, writing("x.png", "; try again"):
        raise error
    assert str(caught.value) == f"x.png cannot be written: {reason}; try again"


def test_other_errors_are_as_they_were():
    with pytest.raises(KeyError), writing("x.png"):
        raise KeyError
    with pytest.raises(UserError, match="x cannot be written: 'nowhere'"), writing("x", errors=(KeyError, OSError)):
        raise KeyError("nowhere")


def test_a_place_is_made_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert writable_folder("~/a/b", "--out_dir") == tmp_path / "a" / "b"
    assert writable_file(tmp_path / "c" / "x.png", "--out") == tmp_path / "c" / "x.png"
    assert (tmp_path / "a" / "b").is_dir() and names(tmp_path / "c") == []


def test_a_name_that_is_no_text_is_refused():
    with pytest.raises(UserError, match=r"^'x\\udcff': expected a name in UTF-8$"):
        expanded(os.fsdecode(b"x\xff"))


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / ".step_00000010.writing.png").write_text("part")
    (tmp_path / "mine.writing.png").write_text("whole")
    (tmp_path / ".hidden").write_text("whole")
    remove_unfinished(tmp_path)
    remove_unfinished(tmp_path / "nowhere")
    assert names(tmp_path) == [".hidden", "mine.writing.png"]


def test_what_shall_last_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    monkeypatch.setattr(os, "replace", lambda old, new: done.append("replaced") or replace(old, new))
    write_atomically(tmp_path / "a.txt", lambda path: path.write_text("a"), lasting=True)
    assert done == [str(tmp_path / ".a.writing.txt"), "replaced", str(tmp_path)]


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^--out_dir x cannot be written: File exists$"):
        writable_folder(tmp_path / "file", "--out_dir x")
    with pytest.raises(UserError, match=r"^--out y cannot be written: Not a directory$"):
        writable_file(tmp_path / "file" / "folder" / "y", "--out y")
    with pytest.raises(UserError, match=r"^--out z cannot be written: it is a folder$"):
        writable_file(tmp_path, "--out z")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # Root may write anywhere.
    with pytest.raises(UserError, match=f"^--out_dir x cannot be written: no permission in {tmp_path}$"):
        writable_folder(tmp_path, "--out_dir x")


def test_files_in_the_package_go_before_those_beside_it(tmp_path, monkeypatch):
    package = tmp_path / "package"
    monkeypatch.setattr(files, "__file__", str(package / "files.py"))
    for folder in (tmp_path / "configs", package / "configs"):
        folder.mkdir(parents=True)
        for name in ("b.yaml", "a.yaml", "README.md"):
            (folder / name).write_text("")
        assert shipped_files("configs", ".yaml") == [folder / "a.yaml", folder / "b.yaml"]
    assert shipped_files("weights", ".keras") == []
