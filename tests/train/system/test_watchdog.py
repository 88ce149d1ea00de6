"""The watchdog: it ends what hangs, and nothing else."""

from helpers.command_lines import error, run

HANGING = """
import time
from train.system.watchdog import Watchdog
with Watchdog(1) as watchdog:
    for _ in range(14):
        time.sleep(0.2)
        watchdog.done_some()
    print("it worked", flush=True)
    time.sleep(600)
"""


def test_only_a_run_that_hangs_is_ended(tmp_path):
    (tmp_path / "hanging.py").write_text(HANGING)
    done = run(tmp_path, "hanging", code=2)
    assert done.stdout == "it worked\n"
    assert error(done).startswith("error: no micro-batch was done in 1 s: ")
