"""Which files are read (train/preparation/listing.py)."""

import os
import socket
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from helpers.documents import write

from train.preparation import listing
from train.settings.prepare_config import PrepareConfig
from train.system.errors import UserError


def found(root: Path, *patterns: str, exclude=()) -> tuple[list[str], Counter]:
    """The paths below `root` that patterns below it list, and what is skipped."""
    listed = listing.sources(PrepareConfig(text=[f"{root}/{pattern}" for pattern in patterns]))
    skipped = [Counter() for _ in listed]
    files = listing.files(listed, exclude, skipped)
    return [os.path.relpath(file.path, root) for file in files], sum(skipped, Counter())


TREE = {"b.txt": "b", "a/deep/er/z": "z", "a/y.txt": "y", "c.md": "c", "a.x": "x", "a0": "0"}


def test_folders_are_read_at_any_depth_in_a_fixed_order(tmp_path):
    write(tmp_path, TREE)
    names, skipped = found(tmp_path, "")
    assert names == ["a/deep/er/z", "a/y.txt", "a.x", "a0", "b.txt", "c.md"] and not skipped


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.txt", ["b.txt"]),
        ("**/*.txt", ["a/y.txt", "b.txt"]),
        ("?.[tm]*", ["b.txt", "c.md"]),
        ("**", ["a/deep/er/z", "a/y.txt", "a.x", "a0", "b.txt", "c.md"]),
        ("a/**", ["a/deep/er/z", "a/y.txt"]),
        ("a*", ["a/deep/er/z", "a/y.txt", "a.x", "a0"]),
        ("**/deep/**", ["a/deep/er/z"]),
        ("a/../b.txt", ["b.txt"]),
        ("c.md", ["c.md"]),
    ],
)
def test_a_pattern_lists_each_file_once(tmp_path, monkeypatch, pattern, names):
    write(tmp_path, TREE)
    listed, skipped = found(tmp_path, pattern)
    assert sorted(map(os.path.normpath, listed)) == sorted(names) and not skipped
    monkeypatch.chdir(tmp_path)
    relative = listing.sources(PrepareConfig(text=[pattern]))
    paths = [os.path.normpath(file.path) for file in listing.files(relative, [], [skipped])]
    assert sorted(paths) == sorted(names)


def test_a_path_of_any_depth_is_walked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(1100):  # deeper than Python calls functions
        os.mkdir("d")
        os.chdir("d")
    Path("end").touch()
    os.chdir(tmp_path)
    names, skipped = found(Path("."), "d")
    assert names == ["d/" * 1100 + "end"] and not skipped
    with pytest.raises(UserError, match="nested too deeply"):
        found(Path("."), "**/end")
    subprocess.run(["rm", "-r", "d"], check=True)  # pytest cannot


def test_links_that_a_pattern_fits_are_counted(tmp_path):
    write(tmp_path, {"a/x.txt": "x"})
    os.symlink("../a", tmp_path / "a" / "link")
    os.symlink("self", tmp_path / "self")
    assert found(tmp_path, "*/*.txt") == (["a/x.txt"], Counter())
    assert found(tmp_path, "a/*") == (["a/x.txt"], Counter({"link to a folder": 1}))


def test_a_name_that_looks_like_a_pattern_is_found(tmp_path):
    write(tmp_path, {"a[1]*?": "x", "a1": "y", "[b]/c": "z"})
    assert found(tmp_path, "a[1]*?")[0] == ["a[1]*?"]
    assert found(tmp_path, "[b]")[0] == ["[b]/c"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("nowhere", "prepare.text: .*nowhere does not exist"),
        ("*.none", "prepare.text: nothing matches .*none"),
        ("broken", "prepare.text: .*broken is a broken link"),
    ],
)
def test_sources_that_are_not_there_are_named(tmp_path, pattern, message):
    os.symlink("gone", tmp_path / "broken")
    with pytest.raises(UserError, match=message):
        found(tmp_path, pattern)


@pytest.mark.parametrize("pattern", ["", "**"])
def test_what_is_no_file_is_skipped_and_counted(tmp_path, monkeypatch, pattern):
    write(tmp_path / "t", {"fine": "1", "a/also": "2", ".git/x": "3", "__pycache__/y": "4"})
    os.mkfifo(tmp_path / "t" / "fifo")
    os.symlink("nowhere", tmp_path / "t" / "broken")
    os.symlink("..", tmp_path / "t" / "loop")
    os.symlink("a", tmp_path / "t" / "folder")
    os.symlink("fine", tmp_path / "t" / "link")
    monkeypatch.chdir(tmp_path / "t")  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        names, skipped = found(tmp_path / "t", pattern)
    assert names == ["a/also", "fine", "link"]
    assert skipped == {
        "hidden": 2,
        "special file": 2,
        "broken link": 1,
        "link to a folder": 2,
    }


@pytest.mark.timeout(20)
@pytest.mark.parametrize("pattern", ["", "**", "**/*.txt"])
def test_links_that_loop_are_not_followed(tmp_path, pattern):
    """Two in a folder: each way through them would be another path, 2**40 of them."""
    write(tmp_path, {"a/x.txt": "x"})
    for name in ("one", "two"):
        os.symlink("..", tmp_path / "a" / name)
    assert found(tmp_path, pattern)[0] == ["a/x.txt"]


def test_a_listed_link_to_a_folder_is_entered(tmp_path):
    write(tmp_path, {"a/x": "x"})
    os.symlink("a", tmp_path / "link")
    assert found(tmp_path, "link")[0] == ["link/x"]


def test_any_name_that_a_disk_holds_is_listed(tmp_path):
    names = [b"caf\xe9", b"new\nline", b"tab\t", b"-dash", b"\xff\xfe", "\u00e9\u4e2d".encode()]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_text("x")
    assert found(tmp_path, "")[0] == sorted(map(os.fsdecode, names))
    assert found(tmp_path, os.fsdecode(b"caf\xe9"))[0] == [os.fsdecode(b"caf\xe9")]
    listed = listing.sources(PrepareConfig(text=[str(tmp_path)]))
    listing.write_tasks(tmp_path / "tasks", listed, [tmp_path / "tasks"])
    paths = [file.path for file in listing.read_task(tmp_path / "tasks", 0)]
    assert [os.fsencode(os.path.basename(path)) for path in paths] == sorted(names, key=os.fsdecode)
    listing.digest(PrepareConfig(text=[str(tmp_path)]))


@pytest.mark.parametrize("pattern", ["", "**", "**/*.json"])
def test_the_folder_that_is_written_is_not_read(tmp_path, pattern):
    write(tmp_path, {"a.json": "a", "data/manifest.json": "{}", "data/text/b.json": "b"})
    os.symlink("data", tmp_path / "link")
    names, _ = found(tmp_path, pattern, "a.json", exclude=[tmp_path / "link"])
    assert set(names) == {"a.json"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_folders_are_counted(tmp_path):
    write(tmp_path, {"a/x": "x", "b": "b"})
    (tmp_path / "a").chmod(0)
    try:
        assert found(tmp_path, "") == (["b"], {"unreadable folder": 1})
    finally:
        (tmp_path / "a").chmod(0o700)


def test_sources_are_read_in_an_order_that_the_config_does_not_give():
    forward = PrepareConfig(text=["b", "a"], code=["d", "c"], detect=["f", "e"])
    backward = PrepareConfig(text=["a", "b"], code=["c", "d"], detect=["e", "f"])
    listed = listing.sources(forward)
    assert listed == listing.sources(backward)
    assert [source.label for source in listed] == ["text"] * 2 + ["code"] * 2 + [None] * 2


# The digest


def touched(path: Path) -> None:
    """Other content of the same size, under the same time."""
    status = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns


def replaced(path: Path) -> None:
    """Another file under its name, with the same size and time."""
    status = path.stat()
    other = path.with_name(".other")
    other.write_bytes(path.read_bytes()[::-1])
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda root: touched(root / "t" / "a"),
        lambda root: replaced(root / "t" / "a"),
        lambda root: (root / "t" / "a").write_text("longer"),
        lambda root: (root / "t" / "new").write_text("new"),
        lambda root: (root / "t" / "d" / "new").touch(),
        lambda root: (root / "t" / "a").unlink(),
        lambda root: (root / "t" / "a").rename(root / "t" / "z"),
        lambda root: (root / "c" / "x").write_text("other code"),
        lambda root: os.symlink("a", root / "t" / "link"),
        lambda root: (root / "linked").write_text("other"),
    ],
    ids=[
        "touched",
        "replaced",
        "longer",
        "new",
        "new below",
        "removed",
        "renamed",
        "code",
        "new link",
        "linked",
    ],
)
def test_any_change_of_the_files_changes_the_digest(tmp_path, change):
    write(tmp_path, {"t/a": "12", "t/d/b": "3", "c/x": "4", "linked": "5", "aside/y": "6"})
    os.symlink("../linked", tmp_path / "t" / "in")
    prepare = PrepareConfig(text=[f"{tmp_path}/t"], code=[f"{tmp_path}/c"])
    before = listing.digest(prepare)
    write(tmp_path, {"aside/y": "7", "t/.hidden": "8"})  # they are not read
    assert listing.digest(prepare) == before
    change(tmp_path)
    assert listing.digest(prepare) != before


def test_the_digest_tells_what_a_file_counts_as(tmp_path):
    root = write(tmp_path, {"a": "a"})
    kinds = [{"text": [root]}, {"code": [root]}, {"detect": [root]}]
    assert len({listing.digest(PrepareConfig(**kind)) for kind in kinds}) == 3
    library = PrepareConfig(text=[root], python_library=True)
    assert listing.digest(library) == listing.digest(library)
    assert listing.digest(library) != listing.digest(PrepareConfig(text=[root]))


def test_the_digest_leaves_out_the_folder_that_is_written(tmp_path):
    root = write(tmp_path, {"a": "a", "data/b": "b"})
    prepare = PrepareConfig(text=[root])
    before = listing.digest(prepare, [f"{root}/data"])
    write(tmp_path, {"data/c": "c"})
    assert listing.digest(prepare, [f"{root}/data"]) == before


# Tasks


@pytest.mark.parametrize(
    ("most", "tasks"),
    [
        ({}, [["a", "b", "big", "c", "d"]]),
        ({"TASK_FILES": 2}, [["a", "b"], ["big", "c"], ["d"]]),
        ({"TASK_BYTES": 9}, [["a", "b"], ["big"], ["c", "d"]]),
        ({"TASK_BYTES": 8}, [["a", "b"], ["big"], ["c", "d"]]),
        ({"TASK_BYTES": 7}, [["a"], ["b"], ["big"], ["c"], ["d"]]),
    ],
)
def test_files_are_dealt_out_to_tasks(tmp_path, monkeypatch, most, tasks):
    for name, value in most.items():
        monkeypatch.setattr(listing, name, value)
    small = {name: name * 4 for name in "abcd"}
    root = write(tmp_path / "t", small | {"big": "b" * 50, ".hidden": ""})
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "00009.jsonl").touch()  # of a listing that was interrupted
    listed = listing.sources(PrepareConfig(text=[root]))
    count, size, (skipped,) = listing.write_tasks(tmp_path / "tasks", listed, [])
    found = [list(listing.read_task(tmp_path / "tasks", rank)) for rank in range(count)]
    assert [[os.path.basename(file.path) for file in task] for task in found] == tasks
    assert len(list((tmp_path / "tasks").iterdir())) == count
    assert (size, skipped) == (66, {"hidden": 1})
    assert [file for task in found for file in task] == list(listing.files(listed, [], [skipped]))
