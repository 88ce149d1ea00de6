"""The command that continues prompts: what it prints, and how Ctrl-C ends it."""

import dataclasses
import sys

import pytest
from flax import nnx
from helpers.command_lines import run_anew
from helpers.small_models import SMALL

import bridge
from mmrec_jax import MMRecModel
from train.data.tokenizer import Tokenizer
from train.generation import command
from train.generation.stop_strings import Continuation

INTERRUPTED = """
import atexit, os, signal, threading
import jax.monitoring
from train.generation.command import command

def compiling(event, *_, fun_name="", **__):
    if event.endswith("jaxpr_to_mlir_module_duration") and "_prefill" in fun_name:
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()

jax.monitoring.register_event_duration_secs_listener(compiling)
atexit.register(print, "Python takes itself down")
command()
"""


def test_ctrl_c_while_xla_compiles_ends_the_command(tmp_path):
    """At once, as threads that still compile would crash while Python takes itself down."""
    Tokenizer.train([], 257).save(tmp_path / "tokenizer.json")
    config = dataclasses.replace(SMALL, vocab_size=257)
    bridge.save_torch(tmp_path / "a.pt", MMRecModel(config, rngs=nnx.Rngs(0)))
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    # So many tokens that they are not all sampled before the signal comes.
    options = ("--checkpoint", "a.pt", "--length", 10**6)
    done = run_anew(tmp_path, "interrupted", *options, code=130)
    assert done.stderr == "interrupted\n"
    assert "Python takes itself down" not in done.stdout


@pytest.mark.parametrize("print_texts", [command._print_one, command._print_all])
def test_no_control_character_reaches_a_terminal(print_texts, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    tokenizer = Tokenizer.train([], 257)
    text = Continuation(tokenizer, 4)
    added = text.add(tokenizer.encode("\x1b[2J"))
    print_texts(["\x07"], iter([[(added, text)]]))
    out = capsys.readouterr().out
    assert "\\x07\\x1b[2J" in out and "\x1b" not in out and "\x07" not in out
