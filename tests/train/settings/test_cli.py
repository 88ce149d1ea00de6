"""The command line that all commands share; test_prepare.py runs it for real."""

import dataclasses
import json
import typing

import pytest

from train.settings import cli
from train.settings.compare import flat
from train.settings.config import Config
from train.settings.paths import PATHS
from train.settings.pipeline_config import PipelineConfig
from train.system.errors import UserError


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data_dir: a\nrun_dir: b\n")
    return path


def parse(config_file, content, *arguments):
    config_file.write_text("data_dir: a\nrun_dir: b\n" + content)
    return cli.parse_config([*arguments[:1], "--config", str(config_file), *arguments[1:]], "")


def test_defaults_are_those_of_the_dataclasses(config_file):
    assert parse(config_file, "") == Config(data_dir="a", run_dir="b")


@pytest.mark.parametrize(
    ("content", "arguments", "expected"),
    [
        ("optimizer: {learning_rate: 3e-4}", [], 3e-4),
        ("optimizer: {learning_rate: 3E-4}", [], 3e-4),
        ("optimizer: {learning_rate: 1}", [], 1.0),
        ("optimizer: {learning_rate: 3e-4}", ["--optimizer.learning_rate=2e-4"], 2e-4),
        ("", ["--seed=5", "--optimizer.learning_rate", "2e-4"], 2e-4),
    ],
)
def test_overrides_win_wherever_they_stand(config_file, content, arguments, expected):
    rate = parse(config_file, content, *arguments).optimizer.learning_rate
    assert rate == expected and type(rate) is float


def test_prompts_stay_as_they_are_written(config_file):
    prompts = ["1", "a: b", "[x", "l\nl", "null", "3e4", " lead", "#"]
    assert parse(config_file, f"prompts: {json.dumps(prompts)}").prompts == prompts
    assert parse(config_file, "", "--prompts+=d: e").prompts == ["d: e"]


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ("model:", [], "line 3: model must hold keys"),
        ("model: 5", [], "line 3: model must hold keys"),
        (
            "model: {num_heads: 7}",
            [],
            "line 3: model.num_heads must divide model_dim = 256",
        ),
        ("model: {num_heads: 8}", ["--model.num_heads=7"], "command line: model.num_heads must"),
        (
            "\nmodel:\n  pe_dim: x",
            [],
            "line 5: model.pe_dim: expected a whole number or null, not x",
        ),
        (
            "training:\n  steps: null",
            [],
            "line 4: training.steps: expected a whole number, not null",
        ),
        (
            "",
            ["--training.steps=null"],
            "command line: training.steps: expected a whole number, not",
        ),
        ("prompts:", [], "line 3: prompts: expected a list of texts, not null"),
        ("mesh: {data: 0}", [], r"line 3: mesh.data must lie in \[1, 100000\], not 0"),
        ("mesh: {data: 3}", [], "training.batch_size must be a multiple of mesh.data"),
        ("distributed: {coordinator: here}", [], "must be HOST:PORT or auto, not here"),
        ("distributed: {coordinator: 'h:80:1'}", [], "must be HOST:PORT or auto, not h:80:1"),
        ("distributed: {coordinator: '[::1]:70000'}", [], "must be HOST:PORT or auto"),
        ("distributed: {coordinator: 'h:1'}", [], "coordinator needs processes and process too"),
        ("distributed: {processes: 2}", [], "processes needs coordinator: set that"),
        ("distributed: {process: 2, processes: 2, coordinator: 'h:1'}", [], r"lie in \[0, proc"),
        ("expert: {freeze_blocks: -1}", [], r"line 3: expert.freeze_blocks must lie in \[0, "),
        ("expert: {freeze_blocks: 12}", [], "line 3: expert.freeze_blocks must be below model."),
        ("expert: {slow_rate: 0}", [], r"line 3: expert.slow_rate must lie in \(0, 1\], not 0"),
        ("training: {domain: x}", [], "domain: expected one of text, code, mixed, not x"),
        ("prepare: {text: 5}", [], "line 3: prepare.text: expected a list of texts, not 5$"),
        ("prepare: {text: null}", [], "line 3: prepare.text: expected a list of texts, not null"),
        (
            "",
            ["--prompts=a", "--prompts", "b"],
            r"--prompts is given twice: write --prompts '\[ONE",
        ),
        ("prepare: {python_library: 1}", [], "python_library: expected true or false, not 1"),
        ("seed: 1.5", [], "seed: expected a whole number, not 1.5"),
        ("seed: yes", [], "seed: expected a whole number, not True"),
        ("training.steps: 5", [], "key training.steps; indent steps below a line 'training:'"),
        ("steps: 5", [], r"line 3: unknown key steps; did you mean training.steps\?"),
        ("trainin: {steps: 5}", [], r"line 3: unknown key trainin; did you mean training\?"),
        ("prepare: {text: [1, {}]}", [], "text: expected a list of texts, not"),
        ("training: {mix: 3}", [], "mix: expected names with numbers, such as .* or null, not 3"),
        ("fusion: {trainable: x}", [], "expected a list out of embedding, text_expert, .*, not x"),
        ("stages: {}", [], "stages; this is a pipeline's config, for python -m train.pipeline$"),
        ("? [a]\n: 5", [], "line 3: unknown key"),
        ("data_dir: c", [], "line 3: data_dir was set on line 1 already"),
        ("model: {dropout: 0, dropout: 0}", [], "line 3: model.dropout was set on line 3"),
        ("seed: !!python/name:os.system", [], "could not determine a constructor"),
        ("seed: *none", [], "line 3: not valid YAML"),
        ("seed: \0", [], "not valid YAML"),
        ("", ["--model", "other.yaml"], "--model takes no value of its own"),
        ("", ["--se", "1"], "unknown option --se: "),
        ("", ["--training.step", "1"], r"option --training.step: did you mean --training.steps\?$"),
        ("", ["--steps=1"], r"unknown option --steps: did you mean --training.steps\?"),
        ("", ["--prompts=[]", "--promptss+=a"], r"--promptss: did you mean --prompts\?"),
        ("", ["--seed=1", "stray"], "stray is not an option: options are written --NAME VALUE"),
        ("", ["--config=other.yaml"], "--config is given 2 times"),
        ("", ["--seed=1", "--prompts"], "^--prompts needs a value: write --prompts VALUE$"),
        ("", ["--seed=1", "--data_dir"], "^--data_dir needs a value: write --data_dir VALUE$"),
        ("", ["--run_dir=~nobody9/x"], "command line: run_dir: ~nobody9/x: there is no user nobo"),
        ("prepare: {text: [a, ~nobody9]}", [], "line 3: prepare.text: ~nobody9: there is no user"),
        (
            "prepare: {chat_template: '{rol}: {content}'}",
            [],
            r"line 3: prepare.chat_template has the unknown {rol} in it; did you mean {role}\?$",
        ),
        (
            "prepare: {chat_template: '{content}{xyz}'}",
            [],
            "chat_template has the unknown {xyz} in it; known: {role}, {content}$",
        ),
    ],
)
def test_wrong_settings_are_named(config_file, content, arguments, message):
    with pytest.raises(UserError, match=message):
        parse(config_file, content, *arguments)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"- a\n", "line 1: a config file must hold keys"),
        (b"data_dir: \xff\n", "not UTF-8"),
        (b"data_dir: a\n", "run_dir must be set there or by an option"),
        (b"data_dir: null\nrun_dir: b\n", "data_dir must be set there or by an option"),
    ],
)
def test_wrong_config_files_are_named(config_file, content, message):
    config_file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        cli.parse_config(["--config", str(config_file)], "")
    with pytest.raises(UserError, match="Is a directory"):
        cli.parse_config(["--config", str(config_file.parent)], "")


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("data_dir: a\nrun_dir b\nseed: 3\n", 2, "a ':' is missing"),
        ("data_dir: a\nrun_dir b\n", 2, "a ':' is missing"),
        ("model:\n  num_layers 3\n\n  # heads\n  num_heads: 2\n", 2, "a ':' is missing"),
        ("data_dir: a\nmodel\n  num_layers: 3\n", 2, "a ':' is missing"),
        ("# mine\ndata_dir a\n# ours\nrun_dir: b\n", 2, "a ':' is missing"),
        ("data_dir: a: b\n", 1, "no second ':' can stand here"),
        ("data_dir: a\n  run_dir: b\n", 2, "no second ':' can stand here"),
        ("model:\n  num_layers: 3\n num_heads: 2\n", 3, "indented like no key above"),
        ("prompts: [a\nseed: 3\n", 2, "parsing a flow sequence, which begins on line 1"),
    ],
)
def test_the_line_to_correct_is_named(config_file, content, line, message):
    config_file.write_text(content)
    with pytest.raises(UserError) as raised:
        cli.parse_config(["--config", str(config_file)], "")
    assert f"{config_file} line {line}: not valid YAML: " in str(raised.value)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("training: {steps: 5}", "this is one stage's config, for python -m train.base"),
        ("base_model: a", "this is one stage's config"),
        ("seed: 1", "the section stages is missing"),
    ],
)
def test_a_stages_config_is_no_pipelines(config_file, content, message):
    config_file.write_text(f"data_dir: a\nrun_dir: b\n{content}\n")
    with pytest.raises(UserError, match=message):
        cli.parse_command(["--config", str(config_file)], "", PipelineConfig)


@pytest.mark.parametrize(
    ("content", "arguments", "key", "expected"),
    [
        ("prepare: {text: corpus}", [], "prepare.text", ["corpus"]),
        ("prepare: {text: 'a: b, c'}", [], "prepare.text", ["a: b, c"]),
        ("prompts: |\n  def \n", [], "prompts", ["def \n"]),
        ("prompts: null", ["--prompts", "def "], "prompts", ["def "]),
        ("prompts: [a]", ["--prompts=x: [y]"], "prompts", ["x: [y]"]),
        ("prompts: [a]", ["--prompts", "[b, c]"], "prompts", ["b", "c"]),
        ("prompts: a", ["--prompts+=b"], "prompts", ["a", "b"]),
        ("", ["--fusion.trainable", "lm_head"], "fusion.trainable", ["lm_head"]),
        ("evaluate: {checkpoints: runs/a}", [], "evaluate.checkpoints", ["runs/a"]),
    ],
)
def test_one_value_is_a_list_where_a_list_belongs(config_file, content, arguments, key, expected):
    config = parse(config_file, content, "--seed=0", *arguments)
    assert flat(dataclasses.asdict(config))[key] == expected


@pytest.mark.parametrize("word", ["--training.batch-size=3", "--training.batch_size=3"])
def test_dashes_and_underscores_are_alike(config_file, word):
    assert parse(config_file, "", word).training.batch_size == 3


def test_dashes_of_values_stay(config_file):
    config = parse(config_file, "", "--data-dir=my-data_dir", "--prompts", "a-b_c")
    assert (config.data_dir, config.prompts) == ("my-data_dir", ["a-b_c"])


def test_a_misspelt_config_option_is_named():
    with pytest.raises(UserError, match=r"^unknown option --confg: did you mean --config\?$"):
        cli.parse_command(["--confg", "my.yaml"], "", Config, add_resume)


def test_what_a_command_cannot_use_is_placed(config_file):
    def check(config):
        if config.seed == 3:
            raise UserError("seed: not three")

    config_file.write_text("data_dir: a\nrun_dir: b\nseed: 3\n")
    given = ["--config", str(config_file)]
    with pytest.raises(UserError, match=f"^{config_file} line 3: seed: not three$"):
        cli.parse_command(given, "", Config, check=check)
    with pytest.raises(UserError, match=r"^command line: seed: not three$"):
        cli.parse_command([*given, "--seed=3"], "", Config, check=check)
    assert cli.parse_command([*given, "--seed=4"], "", Config, check=check)[0].seed == 4


@pytest.mark.parametrize("argv", [["my.yaml"], ["--resume", "my.yml"]])
def test_a_config_without_its_option_is_named(argv):
    with pytest.raises(
        UserError, match=rf"^{argv[-1]} is not an option: write --config {argv[-1]}"
    ):
        cli.parse_command(argv, "", Config, add_resume)


def test_no_locale_changes_what_a_config_says(config_file, monkeypatch):
    content = 'prompts: ["caf\u00e9", \u4e2d, "\\u00e9"]\nprepare:\n  text:\n  - |\n    \u00fc\n'
    config_file.write_text("data_dir: \u00e9\nrun_dir: b\n" + content, encoding="utf-8")
    opened = open

    def in_latin1(path, mode="r", *arguments, encoding=None, **options):
        if "b" not in mode:
            encoding = encoding or "latin-1"
        return opened(path, mode, *arguments, encoding=encoding, **options)

    monkeypatch.setattr("builtins.open", in_latin1)
    config = cli.parse_config(["--config", str(config_file)], "")
    assert (config.data_dir, config.prompts) == ("\u00e9", ["caf\u00e9", "\u4e2d", "\u00e9"])
    assert config.prepare.text == ["\u00fc\n"]


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        ('prompts: ["a", "\\ud800"]', [], r"config.yaml line 3: '\\ud800' is not Unicode text"),
        ("prompts: &a [*a, 5]", [], "more than 2,000 values"),
        ("", ["--prompts+=caf\udce9"], r"command line: '--prompts\+=caf\\udce9' is not text"),
    ],
)
def test_what_is_no_text_is_named(config_file, content, arguments, message):
    with pytest.raises(UserError, match=message):
        parse(config_file, content, "--seed=0", *arguments)


NO_PATHS = {
    "distributed.coordinator",
    "prompts",
    "prepare.answer_roles",
    "prepare.chat_fields",
    "prepare.chat_template",
    "prepare.end_of_text",
    "prepare.text_fields",
    "prepare.tiktoken_pattern",
    "prepare.engine.slurm.partition",
    "prepare.engine.slurm.qos",
    "prepare.engine.slurm.time",
}


def texts(kind, prefix=""):
    """The dotted keys of all settings that are texts."""
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            yield from texts(hint, f"{prefix}{name}.")
        elif str in (hint, *typing.get_args(hint)):
            yield prefix + name


def test_the_home_folder_is_meant_in_every_path(config_file, monkeypatch):
    keys = set(texts(Config))
    assert keys - NO_PATHS <= PATHS  # each new setting is one or the other
    monkeypatch.setenv("HOME", "/home/me")
    lists = {"prepare.text", "prepare.code", "prepare.detect", "evaluate.checkpoints"}
    options = [f"--{key}=" + ('["~/a", "b/~"]' if key in lists else "~/a") for key in keys & PATHS]
    config = cli.parse_config(["--config", str(config_file), *options], "")
    found = flat(dataclasses.asdict(config))
    for key in keys & PATHS:
        assert found[key] == (["/home/me/a", "b/~"] if key in lists else "/home/me/a"), key
    config_file.write_text("data_dir: ~/a\nrun_dir: '~'\nprompts: [~/a]\nprepare: {text: [~/a]}\n")
    config = cli.parse_config(["--config", str(config_file)], "")
    assert (config.data_dir, config.run_dir) == ("/home/me/a", "/home/me")
    assert (config.prompts, config.prepare.text) == (["~/a"], ["/home/me/a"])


def test_a_missing_key_may_come_from_the_command_line(config_file):
    config_file.write_text("data_dir: a")
    config = cli.parse_config(["--config", str(config_file), "--run_dir", "c"], "")
    assert config == Config(data_dir="a", run_dir="c")


def add_resume(parser):
    parser.add_argument("--resume", action="store_true", help="go on where the run stopped")


def exit_of(main, argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        command = cli.Command(main, "Describes itself.", add_resume)
        command.run([str(word) for word in argv])
    return stopped.value.code, *capsys.readouterr()


def test_commands_have_flags_of_their_own(config_file, capsys):
    got = []

    def main(config, resume):
        got.append((config.seed, resume))

    assert exit_of(main, ["--config", config_file, "--resume"], capsys) == (0, "", "")
    assert exit_of(main, ["--config", config_file, "--seed", "3"], capsys) == (0, "", "")
    assert got == [(0, True), (3, False)]
    config_file.write_text(config_file.read_text() + "resume: true\n")
    code, _, error = exit_of(main, ["--config", config_file], capsys)
    assert code == 2 and "unknown key resume" in error


def test_help_lists_every_key_and_no_section_files(config_file, capsys):
    code, text, error = exit_of(print, ["--help-all"], capsys)
    assert (code, error) == (0, "")
    for part in ("Describes itself.", "--resume", "--seed", "--optimizer.learning_rate", "0.0003"):
        assert part in text
    assert "--optimizer " not in text
    assert len(text.partition("Describes")[0].splitlines()) <= 3


def test_errors_and_interruptions_end_with_one_line(config_file, capsys):
    def wrong(config, resume):
        raise UserError("first\n  second")

    def interrupted(config, resume):
        raise KeyboardInterrupt

    def bug(config, resume):
        raise ZeroDivisionError

    argv = ["--config", config_file]
    assert exit_of(wrong, argv, capsys) == (2, "", "error: first second\n")
    assert exit_of(interrupted, argv, capsys) == (130, "", "interrupted\n")
    with pytest.raises(ZeroDivisionError):
        exit_of(bug, argv, capsys)


def test_an_empty_value_is_named(config_file, capsys):
    argv = ["--config", config_file, "--training.remat="]
    code, _, error = exit_of(print, argv, capsys)
    assert code == 2
    assert error.startswith("error: command line: training.remat: expected ")


BOMB = "prompts:\n  - &a0 [x]\n" + "".join(
    f"  - &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompts: " + "[" * 3000 + "]" * 3000, "are nested too deep: a config needs five levels"),
        ("prompts: " + "{a: " * 3000 + "1" + "}" * 3000, "are nested too deep"),
        (BOMB, "line [0-9]+: more than 2,000 values up to here, with those that aliases repeat"),
        ("prompts: &a [*a]", "line 3: more than 2,000 values"),
        ("prompts: [&a x" + ", *a" * 20_000 + "]", "line 3: more than 2,000 values"),
        ("prompts:" + "\n  - x" * 20_000, "line [0-9]+: more than 2,000 values up to here"),
    ],
)
def test_a_config_of_absurdly_many_values_is_refused_at_once(config_file, content, message):
    with pytest.raises(UserError, match=message):
        parse(config_file, content)


@pytest.mark.parametrize("key", ["model.num_layers", "training.steps", "training.accumulation"])
def test_work_that_would_never_end_is_refused_at_once(config_file, key):
    with pytest.raises(UserError, match=f"{key} must be at most 10"):
        parse(config_file, "", f"--{key}=1000000000000")
