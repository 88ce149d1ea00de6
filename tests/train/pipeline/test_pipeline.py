"""Real runs of the stages' commands and of the pipeline, small ones, killed and gone on with."""

import hashlib
import json
import random
import re
import shutil
import signal
import subprocess
import time

import huggingface_hub
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from helpers.command_lines import command, contents, error, run, write_sources

import bridge
from bridge.weights import variables
from mmrec_jax import ExpertModule, MMRec100M, MMRecModel
from train.checkpoints.run_states import is_whole
from train.pipeline.scores import claims, read_scores

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

OPTIMIZER = "optimizer: {learning_rate: 1.0e-2, warmup_steps: 3}"
TRAINING = "batch_size: 4, sequence_length: 16, accumulation: 2, checkpoint_every: 3"
CONFIG = """
data_dir: data
run_dir: runs
seed: 3
prompts: ["def "]
prepare: {text: [raw/text], code: [raw/code], validation_fraction: 0.2, test_fraction: 0.2}
model:
  {vocab_size: 300, model_dim: 16, num_layers: 2, num_heads: 2, ffn_dim: 24, dropout: 0.1,
   fusion_method: weighted}
"""
STAGES = f"""
stages:
  base: {{ {OPTIMIZER}, training: {{steps: 30, {TRAINING}}} }}
  text: {{ {OPTIMIZER}, training: {{domain: text, steps: 8, {TRAINING}}} }}
  code: {{ {OPTIMIZER}, training: {{domain: code, steps: 8, {TRAINING}}} }}
  fusion: {{ {OPTIMIZER}, training: {{steps: 6, {TRAINING}}} }}
  continued: {{ {OPTIMIZER}, training: {{steps: 22, {TRAINING}}} }}
"""
PIPELINE = ("train.pipeline", "--config", "p.yaml")
SPLIT = "validation"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sources, a config of the whole pipeline, and one of single stages."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_sources(folder)
    (folder / "p.yaml").write_text(CONFIG + STAGES)
    (folder / "c.yaml").write_text(CONFIG + f"{OPTIMIZER}\ntraining: {{steps: 8, {TRAINING}}}\n")
    return folder


@pytest.fixture(scope="module")
def finished(folder):
    """What a pipeline that nobody disturbed printed; its run_dir is runs."""
    return run(folder, *PIPELINE).stdout


def scores(run_dir):
    return (run_dir / f"evaluation-{SPLIT}.json").read_text()


FILES = {
    "base": ("base_model_step_30.pt", MMRecModel),
    "text": ("text_expert_step_8.pt", ExpertModule),
    "code": ("code_expert_step_8.pt", ExpertModule),
    "fusion": ("fusion_model_step_6.pt", MMRec100M),
    "continued": ("continued_model_step_22.pt", MMRecModel),
}


def stage(folder, name):
    return folder / "runs" / f"checkpoints_{name}"


def test_what_the_pipeline_shows(folder, finished):
    for part in (
        "bits/byte",
        "fusion, text alone",
        "bigram",
        "5-gram",
        " nats per token",
        "fusion, prompt 'def '",
    ):
        assert part in finished
    assert (folder / "runs" / f"evaluation-{SPLIT}.png").read_bytes().startswith(b"\x89PNG")
    document = (folder / "runs" / "report.html").read_text()
    card = (folder / "runs" / "export" / "README.md").read_text()
    for name, of_domain in json.loads(scores(folder / "runs"))["scores"]["mixed"].items():
        assert f">{name}<" in document
        assert f"{of_domain['loss']:.4f}" in document
        assert f"| {name} |" in card
        assert f"{of_domain['loss']:.4f}" in card
    samples = json.loads((folder / "runs" / "samples.json").read_text())
    assert set(samples) == set(FILES)
    exported = {path.name for path in (folder / "runs" / "export").iterdir()}
    assert len(exported) == len(FILES) + 3
    assert "tokenizer.json" in exported


def test_stages_are_counted_and_the_time_for_all_is_said(finished):
    numbers = re.findall(r"(\w+): stage (\d) of 5", finished)
    assert numbers == [(name, str(number)) for number, name in enumerate(FILES, 1)]
    assert " for all stages" in finished


def test_a_plan_of_a_pipeline_says_what_all_stages_take_and_writes_nothing(folder, finished):
    printed = run(folder, *PIPELINE, "--run_dir", "planned", "--plan").stdout
    assert not (folder / "planned").exists()
    assert all(f"{name} " in printed for name in (*FILES, "evaluate", "export"))
    planned = re.search(r"^plan disk    ([\d.]+) MB", printed, re.MULTILINE)
    real = sum(path.stat().st_size for path in (folder / "runs").rglob("*") if path.is_file())
    assert float(planned[1]) * 1e6 == pytest.approx(real, rel=0.15)


def test_the_card_of_an_export_says_what_its_files_are(folder, finished, monkeypatch, capsys):
    export = folder / "runs" / "export"
    text = (export / "README.md").read_text()
    card = huggingface_hub.ModelCard(text)
    assert "license" not in card.data.to_dict()
    assert "No licence is stated" in card.text
    names = [model["name"] for model in yaml.safe_load(text.split("---")[1])["model-index"]]
    assert sorted(f"{name}.safetensors" for name in names) == sorted(
        path.name for path in export.glob("*.safetensors")
    )
    for path in export.glob("*.safetensors"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() in card.text
    monkeypatch.chdir(export)
    in_jax, in_torch = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    found = {}
    exec(in_jax, found)
    assert isinstance(found["lm"].model, MMRec100M)
    assert "nats per token" in capsys.readouterr().out
    exec(in_torch, found)
    logits = found["lm"].model(jnp.zeros((1, 8), jnp.int32)).logits
    np.testing.assert_allclose(found["logits"].detach().numpy(), logits, atol=1e-5)


@pytest.mark.parametrize("name", FILES)
def test_every_stage_is_its_own_file_to_the_bit(folder, finished, name):
    file, kind = FILES[name]
    path = stage(folder, name) / file
    done = run(folder, "bridge", "verify", stage(folder, name), path)
    assert "A and B are the same, tolerance 0" in done.stdout
    loaded = bridge.load_torch(path)
    assert type(loaded.model) is kind
    exported = bridge.load_safetensors(
        folder / "runs" / "export" / f"{re.sub(r'_step.*', '', file)}.safetensors"
    )
    for variable, array in variables(loaded.model).items():
        np.testing.assert_array_equal(array, variables(exported.model)[variable])


def test_the_experts_are_the_same_in_the_fusion(folder, finished):
    fused = variables(bridge.load_torch(stage(folder, "fusion") / FILES["fusion"][0]).model)
    base = variables(bridge.load_torch(stage(folder, "base") / FILES["base"][0]).model)
    for name in ("text", "code"):
        expert = bridge.load_torch(stage(folder, name) / FILES[name][0])
        assert expert.metadata["domain"] == name
        for path, array in variables(expert.model).items():
            np.testing.assert_array_equal(fused[f"{name}_expert", *path], array)
    table = ("embedding", "embedding")
    np.testing.assert_array_equal(fused[table], base[table])
    moments = bridge.load_torch(stage(folder, "fusion") / FILES["fusion"][0]).optimizer_state
    assert {path[0] for path in moments.exp_avg} == {"fusion", "final_norm", "lm_head"}


def test_the_ensemble_is_no_worse_than_the_better_expert(folder, finished):
    found = claims(read_scores(folder / "runs", SPLIT))
    (at_start,) = [claim for claim in found if "step 0" in claim.text]
    assert at_start.holds


def test_nothing_is_done_twice(folder, finished):
    before = contents(folder)
    done = run(folder, *PIPELINE)
    for name in ("prepare", *FILES, "evaluate", "samples", "export"):
        assert f"{name}: complete" in done.stdout
    after = contents(folder)
    assert {path for path in after if after[path] != before.get(path)} == set()


def to_be_killed(folder, place):
    """The pipeline's command line and environment, for another folder with the same sources.

    What is compiled is kept in a copy there: who is killed may leave half a file.
    """
    shutil.copytree(folder / "raw", place / "raw", copy_function=shutil.copy2)
    shutil.copy(folder / "p.yaml", place)
    line, environment = command(*PIPELINE)
    variable = "JAX_COMPILATION_CACHE_DIR"
    compiled = shutil.copytree(environment[variable], place / "compiled")
    return line, environment | {variable: str(compiled)}


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_killed_at_five_random_moments_it_ends_the_same(folder, finished, kill, tmp_path):
    line, environment = to_be_killed(folder, tmp_path)
    moments = random.Random(int(kill))
    killed = 0
    while killed < 5:
        process = subprocess.Popen(
            line, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        lines = [process.stdout.readline()]
        while b": complete" in lines[-1]:  # what an earlier start has done
            lines.append(process.stdout.readline())
        lines += [process.stdout.readline() for _ in range(moments.randint(0, 2))]
        time.sleep(moments.uniform(0, 0.3))
        process.send_signal(kill)
        printed = b"".join([*lines, process.communicate()[0]]).decode()
        if process.returncode == 0:
            pytest.fail(f"it was done after {killed} kills: wait for less; {printed[-300:]}")
        killed += 1
        if kill == signal.SIGINT:
            assert "Traceback" not in printed, printed
    run(tmp_path, *PIPELINE)
    assert scores(tmp_path / "runs") == scores(folder / "runs")
    samples = (tmp_path / "runs" / "samples.json").read_text()
    assert samples == (folder / "runs" / "samples.json").read_text()
    assert (tmp_path / "runs" / "report.html").is_file()


def test_killed_between_a_stages_first_state_and_its_file(folder, finished, tmp_path):
    line, environment = to_be_killed(folder, tmp_path)
    program = (
        "import os, signal\n"
        "from train.checkpoints import run_states\n"
        "from train.pipeline import __main__ as pipeline\n"
        "run_states.export_torch = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "pipeline.COMMAND.run()\n"
    )
    killed = subprocess.run([line[0], "-c", program, *line[3:]], cwd=tmp_path, env=environment)
    assert killed.returncode == -signal.SIGKILL
    base = tmp_path / "runs" / "checkpoints_base"
    assert bridge.steps(base) == [3] and not list(base.glob("*.pt"))
    run(tmp_path, *PIPELINE)
    assert scores(tmp_path / "runs") == scores(folder / "runs")


def test_a_file_that_is_lost_is_written_again(folder, finished):
    shutil.copytree(folder / "runs", folder / "lost")
    path = folder / "lost" / "checkpoints_text" / FILES["text"][0]
    before = bridge.load_torch(path)
    path.unlink()
    exported = folder / "lost" / "export" / "base_model.safetensors"
    weights = exported.read_bytes()
    exported.write_bytes(weights[:16])
    done = run(folder, *PIPELINE, "--run_dir", "lost")
    assert bridge.compare(bridge.load_torch(path), before).agrees()
    assert "fusion: complete" in done.stdout
    assert exported.read_bytes() == weights


@pytest.mark.parametrize("left", ["file", "nothing"])
def test_a_stage_whose_state_is_damaged_is_made_again_and_the_others_are_not(
    folder, finished, left
):
    shutil.copytree(folder / "runs", folder / f"damaged {left}")
    base = folder / f"damaged {left}" / "checkpoints_base"
    state = bridge.state_folder(base, 30)
    array = max(state.rglob("ocdbt*/d/*"), key=lambda path: path.stat().st_size)
    array.write_bytes(array.read_bytes()[:-1])
    if left == "nothing":
        (base / FILES["base"][0]).unlink()
    done = run(folder, *PIPELINE, "--run_dir", f"damaged {left}").stdout
    assert is_whole(state, 30) and (base / FILES["base"][0]).is_file()
    assert re.findall(r"(\w+): complete", done) == [
        *("prepare", "text", "code", "fusion", "continued", "evaluate", "samples", "export")
    ]


def test_a_stage_that_another_command_trained_anew_is_not_taken_for_ours(folder, finished):
    shutil.copytree(folder / "runs", folder / "strange")
    base = ("train.base", "--config", "c.yaml", "--run_dir", "strange", "--training.steps", 30)
    run(folder, *base, "--training.checkpoint_every", 30, "--overwrite", "--seed", 4)
    message = error(run(folder, *PIPELINE, "--run_dir", "strange", code=2))
    assert "base: what is in strange/checkpoints_base was made by another command" in message


def test_a_stage_that_another_command_extended_is_not_taken_for_ours(folder, finished):
    shutil.copytree(folder / "runs", folder / "longer")
    base = ("train.base", "--config", "c.yaml", "--run_dir", "longer", "--training.steps", 30)
    run(folder, *base, "--resume", "--extend", 3)
    message = error(run(folder, *PIPELINE, "--run_dir", "longer", code=2))
    assert "base: what is in longer/checkpoints_base was made by another command" in message


def test_other_settings_never_take_an_old_result(folder, finished):
    shutil.copytree(folder / "runs", folder / "changed")
    # The record names paths, and this is another place.
    change = ("--run_dir", "changed", "--stages.code.optimizer.learning_rate", "0.02")
    before = contents(folder / "changed")
    message = error(run(folder, *PIPELINE, *change, code=2))
    assert "code: what is in changed/checkpoints_code was made with other" in message
    assert "optimizer.learning_rate (0.01 there, 0.02 now)" in message
    assert contents(folder / "changed") == before
    done = run(folder, *PIPELINE, *change, "--overwrite")
    for name, redone in (("base", False), ("text", False), ("code", True), ("fusion", True)):
        assert (f"{name}: complete" in done.stdout) != redone
    assert scores(folder / "changed") != scores(folder / "runs")


def test_tokens_that_the_control_does_not_get_are_refused(folder):
    message = error(run(folder, *PIPELINE, "--stages.continued.training.steps", 21, code=2))
    assert "stages.continued.training must have as many tokens as text, code and" in message
    message = error(run(folder, *PIPELINE, "--stages.text.training.domain", "code", code=2))
    assert "stages.text.training.domain must be text, not code" in message


def test_stages_by_their_own_commands(folder, finished):
    """Each command gives what the pipeline gives."""
    base = ("--config", "c.yaml", "--run_dir", "own", "--base_model", stage(folder, "base"))
    for domain in ("text", "code"):
        done = run(folder, "train.expert", *base, "--training.domain", domain)
        assert "from the base: blocks.0, blocks.1, norm" in done.stdout
    experts = [f"--fusion.{name}_expert={stage(folder, name)}" for name in ("text", "code")]
    run(folder, "train.fusion", *base, *experts, "--training.steps", 6)
    for name in ("text", "code", "fusion"):
        file, _ = FILES[name]
        found = variables(bridge.load_torch(folder / "own" / f"checkpoints_{name}" / file).model)
        wanted = variables(bridge.load_torch(stage(folder, name) / file).model)
        for path, array in wanted.items():
            np.testing.assert_array_equal(found[path], array)
    files = [stage(folder, name) / file for name, (file, _) in FILES.items()]
    listed = [f"--evaluate.checkpoints={json.dumps([str(path) for path in files])}"]
    done = run(folder, "train.evaluate", *base, *listed)
    document = json.loads((folder / "own" / f"comparison-{SPLIT}.json").read_text())
    curves = folder / "own" / f"comparison-{SPLIT}-curves.png"
    assert f"curves: own/{curves.name}" in done.stdout
    assert curves.read_bytes().startswith(b"\x89PNG")
    wanted = json.loads(scores(folder / "runs"))["scores"]["mixed"]["fusion"]
    assert document["scores"]["mixed"][str(files[3])] == wanted
    for routed in ("text alone", "code alone"):
        assert routed in done.stdout
    text = run(folder, "mmrec_jax.generate", "--checkpoint", stage(folder, "fusion"), "--length", 5)
    assert text.stdout


def test_an_expert_that_trains_its_embedding(folder, finished):
    options = ("--run_dir", "tuned", "--base_model", stage(folder, "base"), "--config", "c.yaml")
    tune = ("--expert.freeze_embedding", "false", "--training.domain", "text")
    run(folder, "train.expert", *options, *tune)
    path = folder / "tuned" / "checkpoints_text" / "text_expert_step_8.pt"
    loaded = bridge.load_torch(path)
    assert isinstance(loaded.model, MMRecModel)
    assert ("embedding", "embedding") in loaded.optimizer_state.exp_avg
    run(folder, "bridge", "verify", path.parent, path)
    code = f"--fusion.code_expert={stage(folder, 'code')}"
    swapped = f"--fusion.text_expert={stage(folder, 'code')}"
    message = error(run(folder, "train.fusion", *options, code, swapped, code=2))
    assert "is the code expert: name the text expert" in message
    fusion = ("train.fusion", *options, code, "--training.steps", 4)
    message = error(run(folder, *fusion, code=2))
    assert "fusion.embedding: the text expert has trained an embedding of its own" in message
    run(folder, *fusion, "--fusion.embedding", "text")
    fused = bridge.load_torch(folder / "tuned" / "checkpoints_fusion" / "fusion_model_step_4.pt")
    np.testing.assert_array_equal(
        fused.model.embedding.embedding[...], loaded.model.embedding.embedding[...]
    )


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        ("train.expert", (), "training.domain: an expert is trained on text or on code"),
        ("train.expert", ("--training.domain", "text"), "base_model: there is no base in nowhere"),
        (
            "train.expert",
            ("--training.domain", "text", "--base_model", "gone.pt"),
            "base_model: gone.pt: cannot be read: No such file or directory",
        ),
        (
            "train.expert",
            ("--training.domain", "text", "--base_model", "c.yaml"),
            "base_model: c.yaml: ",
        ),
        (
            "train.expert",
            ("--training.domain", "text", "--base_model", "BASE", "--model.ffn_dim", 32),
            "model.ffn_dim is 24 in the checkpoint and 32 in the config",
        ),
        (
            "train.expert",
            ("--training.domain", "text", "--expert.freeze_blocks", 2),
            "expert.freeze_blocks must be below model.num_layers = 2, not 2",
        ),
        ("train.fusion", ("--base_model", "BASE"), "fusion.text_expert: there is no text expert"),
        (
            "train.fusion",
            ("--base_model", "BASE", "--fusion.trainable", "[]"),
            "fusion.trainable is empty",
        ),
        (
            "train.fusion",
            ("--base_model", "BASE", "--fusion.text_expert", "FUSION"),
            "fusion.text_expert: ",
        ),
        ("train.evaluate", (), "run_dir nowhere has no trained stage"),
        (
            "train.evaluate",
            ("--evaluate.checkpoints", '["gone"]'),
            "evaluate.checkpoints: gone does not exist",
        ),
        ("train.base", ("--training.start_from", "gone"), "training.start_from: gone: "),
    ],
)
def test_mistakes_are_one_line(folder, finished, module, options, message):
    places = {"BASE": stage(folder, "base"), "FUSION": stage(folder, "fusion")}
    words = [places.get(word, word) for word in options]
    done = run(folder, module, "--config", "c.yaml", "--run_dir", "nowhere", *words, code=2)
    assert message in error(done)
    assert not (folder / "nowhere").exists()


def test_another_bases_expert_is_refused(folder, finished):
    """An expert's own embedding is not in its file: a stranger's would give silent nonsense."""
    run(folder, "train.base", "--config", "c.yaml", "--run_dir", "stranger", "--seed", 8)
    line = ("train.evaluate", "--config", "c.yaml", "--run_dir", "stranger")
    for path in (stage(folder, "text"), folder / "runs" / "export" / "text_expert.safetensors"):
        checkpoints = f"--evaluate.checkpoints={json.dumps([str(path)])}"
        message = error(run(folder, *line, checkpoints, code=2))
        assert "trained with another base's embedding: set base_model to that base" in message
