"""Disks that are full: small ones of memory, which this process mounts and can fill."""

import contextlib
import os
import subprocess
import threading
import time

import pytest

ROOMY = 64 * 2**20


@contextlib.contextmanager
def disk(folder, size=ROOMY):
    """Mounts a disk of so many bytes on a new folder; skips the test where that is not allowed."""
    folder.mkdir(parents=True)
    done = mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    if done.returncode:
        folder.rmdir()
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def mount(*options):
    return subprocess.run(["mount", *options], capture_output=True, text=True)


def resize(folder, size=ROOMY):
    assert mount("-o", f"remount,size={size}", str(folder)).returncode == 0


def fill(folder, left=0):
    """Fills a disk until so many bytes are left."""
    with open(folder / "filler", "wb") as file:
        while True:
            free = os.statvfs(folder)
            more = free.f_bavail * free.f_frsize - left
            if more <= 0:
                return
            with contextlib.suppress(OSError):  # another was faster
                os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), more)


def empty(folder):
    """Undoes `fill`, with a larger disk."""
    (folder / "filler").unlink(missing_ok=True)
    resize(folder)


@contextlib.contextmanager
def filled_when(folder, happened, left):
    """Fills a disk, as another program would, as soon as something has happened on it."""
    ended = threading.Event()

    def watch():
        while not ended.is_set():
            if happened():
                fill(folder, left)
                return
            time.sleep(0.0005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
