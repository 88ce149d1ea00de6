"""Processes that run a command at once: forks of a Python that has imported the libraries.

A new Python needs seconds to import them. A fork runs a command as `python -m` does: it imports our
packages itself, prints, and exits as any process.
"""

import contextlib
import functools
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile

from helpers.paths import ROOT

LIBRARIES = (
    "datatrove.executor",
    "flax.nnx",
    "grain",
    "jsonargparse",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "optax",
    "orbax.checkpoint",
    "pyarrow",
    "rich.progress",
    "tensorboardX",
    "tokenizers",
    "torch._dynamo",
)
"""Not magika: it starts threads as it is imported, and a fork would wait for them for ever."""


def run(folder, *words, environment=()):
    """What `python -m WORDS` prints in a folder, and how it exits."""
    return start(folder, *words, environment=environment).wait()


def start(folder, *words, environment=(), limits=(), stdout=None, stderr=None):
    """Starts `python -m WORDS` in a folder.

    Args:
        folder: the folder that it runs in.
        words: the module and its arguments.
        environment: variables beside those of this process.
        limits: the process's own, by their names in `resource`.
        stdout, stderr: files to print to; what is printed elsewhere is kept for `Started.wait`.
    """
    request = {
        "folder": str(folder),
        "words": words,
        "environment": dict(environment),
        "limits": dict(limits),
    }
    files = [file or tempfile.TemporaryFile() for file in (stdout, stderr)]  # noqa: SIM115
    reply, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        descriptors = [file.fileno() for file in (*files, theirs)]
        socket.send_fds(_server()[0], [json.dumps(request).encode()], descriptors)
    return Started(words, files, reply, int(reply.recv(100)))


class Started:
    """A command that was started.

    Attributes:
        pid: its process.
    """

    def __init__(self, words, files, reply, pid):
        self._words, self._files, self._reply, self.pid = words, files, reply, pid
        self._code = None

    def running(self):
        """Whether it has not ended yet."""
        if self._code is None and select.select([self._reply], [], [], 0)[0]:
            self._code = int(self._reply.recv(100))
        return self._code is None

    def kill(self, number=signal.SIGKILL):
        """Sends it a signal, if it has not ended yet."""
        if self.running():
            os.kill(self.pid, number)

    def wait(self):
        """Waits until it ends: what it printed, and how it exited."""
        try:
            if self._code is None:
                self._code = int(self._reply.recv(100))
        except BaseException:  # the time of a test is over, say
            self.kill()
            raise
        self._reply.close()
        return subprocess.CompletedProcess(self._words, self._code, *map(_printed, self._files))


def _printed(file):
    if not file.readable():  # the caller's own
        return ""
    with file:
        file.seek(0)
        return file.read().decode()


@functools.cache
def _server():
    """Where requests are sent, and the process that answers them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        program = f"from helpers import warm_python; warm_python.serve({theirs.fileno()})"
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
            pass_fds=[theirs.fileno()],
        )
    return ours, process


def stop():
    """Ends the server, if there is one."""
    if _server.cache_info().currsize:
        requests, process = _server()
        requests.close()
        process.wait()
        _server.cache_clear()


def serve(descriptor):
    """Forks for each request and answers with the fork's exit code."""
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or each fork would copy all objects when it collects garbage
    requests = socket.socket(fileno=descriptor)
    while True:
        content, files, _, _ = socket.recv_fds(requests, 2**20, 3)
        if not content:
            return
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # who has answered
                pass
        if not os.fork():
            break
        for file in files:
            os.close(file)
    requests.close()
    reply = socket.socket(fileno=files.pop())
    child = os.fork()
    if not child:
        reply.close()
        _become(json.loads(content), files)
        return
    reply.send(str(child).encode())
    reply.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
    os._exit(0)


def _become(request, files):
    """The process that `python -m` would be."""
    for number, file in enumerate(files, 1):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ |= {"PYTHONPATH": str(ROOT), **request["environment"]}
    sys.path[0] = request["folder"]
    sys.path.remove(str(ROOT / "tests"))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, limit in request["limits"].items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    module, *arguments = request["words"]
    sys.argv = ["-m", *arguments]
    sys.orig_argv = [sys.executable, "-m", module, *arguments]
    runpy._run_module_as_main(module)
