"""Runs the tasks of a step with datatrove: on this machine, on Ray or on Slurm."""

import concurrent.futures
import concurrent.futures.process
import contextlib
import functools
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import rich.console
import rich.progress
from datatrove.executor import (
    LocalPipelineExecutor,
    RayPipelineExecutor,
    SlurmPipelineExecutor,
)
from datatrove.executor.base import PipelineExecutor
from datatrove.utils.logging import logger

from train.preparation.meter import counts
from train.settings.prepare_config import EngineConfig
from train.system.errors import TasksFailedError, UserError

_POLL_SECONDS = 0.5
_DEV_NULL = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the life of the process


class Engine:
    """Runs steps one after the other, and shows their progress."""

    def __init__(self, config: EngineConfig, folder: Path, console: rich.console.Console) -> None:
        """`folder` is the preparation's folder, on a disk that all workers share."""
        self._config = config
        self._folder = folder
        self._console = console
        self._workers = config.workers or os.cpu_count() or 1
        logger.remove()

    def run(self, name: str, tasks: int, actions: list[Any], total: int = 0) -> None:
        """Runs what is left of a step's tasks.

        Args:
            name: the name of the step.
            tasks: the number of tasks.
            actions: what each task does, one after the other, in datatrove's form.
            total: the bytes that all tasks together will count; 0 if unknown.

        Raises:
            TasksFailedError: a task failed where its error cannot be seen from here.
        """
        executor = self._executor(name, tasks, actions)
        if not executor.get_incomplete_ranks():
            self._console.print(f"{name}: done before")
            return
        began = time.monotonic()
        with self._progress(name, total):
            if isinstance(executor, SlurmPipelineExecutor):
                _submit(executor)
                self._await_slurm(executor)
            else:
                with _naming_a_killed_worker(name):
                    executor.run()
        left = executor.get_incomplete_ranks()
        if left:
            log = self._folder / "logs" / name / "logs" / f"task_{left[0]:05d}.log"
            raise TasksFailedError(
                f"{name}: {len(left)} of {tasks} tasks failed, the first {left[0]}: see {log}; "
                "the same command tries them again"
            )
        documents, size = counts(self._folder, name)
        seconds = time.monotonic() - began
        if documents:
            self._console.print(
                f"{name}: {documents:,} documents, {size / 1e6:,.1f} MB in {seconds:.1f} s, "
                f"{size / 1e6 / seconds:.1f} MB/s"
            )
        else:
            self._console.print(f"{name}: {seconds:.1f} s")

    def call(self, name: str, function: Callable[..., None], *arguments: Any) -> None:
        """Calls a function in a process of its own, which an interruption ends at once.

        In this process, Ctrl-C would have to wait for the end of whatever library is at work.
        """
        began = time.monotonic()
        with (
            self._console.status(name),
            _silent_stderr(),
            _naming_a_killed_worker(name),
        ):
            _call_in_processes(1, [functools.partial(function, *arguments)])
        self._console.print(f"{name}: {time.monotonic() - began:.1f} s")

    def _executor(self, name: str, tasks: int, actions: list[Any]) -> PipelineExecutor:
        common: dict[str, Any] = {
            "pipeline": actions,
            "tasks": tasks,
            "workers": min(tasks, self._workers),
            "logging_dir": str(self._folder / "logs" / name),
        }
        if self._config.kind == "ray":
            _start_ray(self._workers)
            return _Ray(**common, mem_per_cpu_gb=1)
        if self._config.kind == "slurm":
            slurm = self._config.slurm
            return SlurmPipelineExecutor(
                **common,
                job_name=f"prepare-{name}",
                partition=slurm.partition,
                time=slurm.time,
                mem_per_cpu_gb=slurm.memory_gb,
                qos=slurm.qos,
                env_command=f"export PATH={Path(sys.executable).parent}:$PATH",
            )
        return _Local(**common)

    def _await_slurm(self, executor: SlurmPipelineExecutor) -> None:
        """Waits until all tasks are complete or the job has left the queue."""
        absent = 0
        while executor.get_incomplete_ranks() and absent < 3:
            time.sleep(_POLL_SECONDS)
            command = ["squeue", "--noheader", "--jobs", str(executor.job_id)]
            queue = subprocess.run(command, capture_output=True)
            # Wait a moment, for a job that has just ended or a disk that shows its files late.
            absent = 0 if queue.returncode == 0 and queue.stdout.strip() else absent + 1

    @contextlib.contextmanager
    def _progress(self, name: str, total: int) -> Iterator[None]:
        """Shows a line with documents, MB/s and the time left while the block runs."""
        progress = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}", markup=False),
            rich.progress.BarColumn(),
            rich.progress.TextColumn("{task.fields[documents]:,} documents", markup=False),
            rich.progress.DownloadColumn(),
            rich.progress.TransferSpeedColumn(),
            rich.progress.TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        ended = threading.Event()

        def watch() -> None:
            task = progress.add_task(name, total=total or None, documents=0)
            while not ended.wait(_POLL_SECONDS):
                documents, size = counts(self._folder, name)
                progress.update(task, completed=size, documents=documents)

        watcher = threading.Thread(target=watch, daemon=True)
        with progress:
            watcher.start()
            try:
                yield
            finally:
                ended.set()
                watcher.join()


class _Local(LocalPipelineExecutor):
    """Runs tasks in separate processes, or a single task in this process."""

    def run(self) -> None:
        """Runs what is left."""
        with _silent_stderr():
            if self.workers == 1:
                for rank in self.get_incomplete_ranks():
                    self._run_for_rank(rank)
            else:
                ranks = self.get_incomplete_ranks()
                calls = [functools.partial(self._run_for_rank, rank) for rank in ranks]
                _call_in_processes(self.workers, calls)
        logger.remove()  # datatrove's last task left its log on stderr


def _call_in_processes(workers: int, calls: Sequence[Callable[[], object]]) -> None:
    """Makes calls in processes of their own, which end with this one and when it is interrupted."""
    # Not a fork of this process: in a pipeline it has JAX's threads, which do not survive that.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train.preparation.run_steps"])  # or each worker imports it
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_end_with_parent)
    try:
        # datatrove's own pool waits without end for the task of a worker that was killed.
        running = [pool.submit(call) for call in calls]
        for future in concurrent.futures.as_completed(running):
            future.result()
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _naming_a_killed_worker(name: str) -> Iterator[None]:
    """Says what it means when a worker of a step is gone."""
    try:
        yield
    except concurrent.futures.process.BrokenProcessPool as error:
        raise TasksFailedError(
            f"{name}: a worker was killed, as a system does that is short of memory: "
            "set prepare.engine.workers lower; the same command continues"
        ) from error


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keeps this process, and the workers that it starts, from writing to the terminal.

    datatrove logs to stderr what it also logs to a file, and after Ctrl-C every worker would print
    a traceback.
    """
    stderr = os.dup(2)
    os.dup2(_DEV_NULL.fileno(), 2)
    try:
        with contextlib.redirect_stderr(_DEV_NULL):
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _end_with_parent() -> None:
    """Ends this worker when the process that started it is gone, for instance killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Ray(RayPipelineExecutor):
    """datatrove's own executor, without its log on the terminal."""

    def run(self) -> None:
        """Runs what is left."""
        logger.remove()
        super().run()


def _submit(executor: SlurmPipelineExecutor) -> None:
    try:
        executor.run()
    except OSError as error:
        raise UserError(
            f"prepare.engine.kind is slurm, and sbatch cannot be run: {error.strerror}: use a "
            "machine that submits to the cluster"
        ) from error
    except subprocess.CalledProcessError as error:
        raise UserError(
            f"sbatch refused the job with exit code {error.returncode}: see its message above, and "
            "prepare.engine.slurm"
        ) from error


def _start_ray(workers: int) -> None:
    """Joins the cluster that RAY_ADDRESS names, or starts Ray on this machine."""
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "prepare.engine.kind is ray, and Ray is not installed: pip install ray"
        ) from error
    if not ray.is_initialized():
        cores = None if os.environ.get("RAY_ADDRESS") else workers
        ray.init(
            num_cpus=cores,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
