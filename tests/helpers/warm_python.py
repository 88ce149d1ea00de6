"""Processes that run a command at once: forks of a Python that has imported the libraries.

A new Python needs seconds to import them. A fork runs a command as `python -m` does: it imports our
packages itself, prints, and exits as any process.
"""

import functools
import gc
import importlib
import json
import os
import runpy
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
    request = {"folder": str(folder), "words": words, "environment": dict(environment)}
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        files = [stdout, stderr]
        server, process = _server()
        try:
            socket.send_fds(server, [json.dumps(request).encode()], [f.fileno() for f in files])
            code = int(server.recv(100))
        except BaseException:  # the time of a test is over, say: its answer is not another's
            process.kill()
            stop()
            raise
        for file in files:
            file.seek(0)
        printed = [file.read().decode() for file in files]
    return subprocess.CompletedProcess(words, code, *printed)


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
        content, files, _, _ = socket.recv_fds(requests, 2**20, 2)
        if not content:
            return
        child = os.fork()
        if not child:
            break
        for file in files:
            os.close(file)
        requests.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())
    requests.close()
    _become(json.loads(content), files)


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
    module, *arguments = request["words"]
    sys.argv = ["-m", *arguments]
    sys.orig_argv = [sys.executable, "-m", module, *arguments]
    runpy._run_module_as_main(module)
