"""`python -m train.prepare` as users run it, and the data folder (train/data/data_folder.py)."""

import base64
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import warm_python
from helpers.paths import ROOT

from train.data import data_folder, token_files
from train.data.tokenizer import Tokenizer
from train.preparation.prepare_data import prepare
from train.settings import cli
from train.system.errors import UserError

WORDS = ("the", "cat", "sat", "on", "a", "mat", "while", "two", "dogs", "ran", "over", "hills")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """30 text files, of which three are unusable, and 20 files of code."""
    root = tmp_path_factory.mktemp("sources")
    words = random.Random(0)
    for domain, count in (("text", 28), ("code", 20)):
        (root / domain).mkdir()
        for i in range(count):
            chosen = words.choices(WORDS, k=40 + i)
            content = f"<|endoftext|> {i}: " + (
                " = ".join(chosen) if domain == "code" else " ".join(chosen)
            )
            (root / domain / f"{i}.txt").write_text(content)
    (root / "text" / "latin1").write_bytes(b"caf\xe9")
    (root / "text" / "empty").touch()
    return root


def write_config(root: Path, sources: Path, **changes: str) -> Path:
    values = {
        "data_dir": root / "data",
        "run_dir": root / "runs",
        "seed": 0,
        "text": f"[{sources / 'text'}]",
        "code": f"[{sources / 'code'}]",
        "vocab_size": 300,
    } | changes
    path = root / "config.yaml"
    path.write_text(
        "data_dir: {data_dir}\n"
        "run_dir: {run_dir}\n"
        "seed: {seed}\n"
        "model:\n"
        "  vocab_size: {vocab_size}\n"
        "prepare:\n"
        "  text: {text}\n"
        "  code: {code}\n"
        "  validation_fraction: 0.2\n"
        "  test_fraction: 0.1\n".format(**values)
    )
    return path


@pytest.fixture
def config_file(tmp_path, sources):
    return write_config(tmp_path, sources)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, sources):
    """A prepared folder that tests only read, and its config."""
    root = tmp_path_factory.mktemp("prepared")
    config = cli.parse_config(["--config", str(write_config(root, sources))], "")
    prepare(config)
    return Path(config.data_dir), config


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return warm_python.run(ROOT, "train.prepare", *map(str, arguments))


def hashes(data_dir: Path) -> dict:
    return json.loads((data_dir / "manifest.json").read_text())["files"]


def fails(done: subprocess.CompletedProcess[str], *parts: str) -> bool:
    """One line on stderr with these parts, and exit code 2."""
    assert done.returncode == 2, done
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    for part in parts:
        assert part in done.stderr
    return True


# The data folder


def test_the_token_files_hold_the_documents(prepared, sources):
    data_dir, _ = prepared
    manifest = data_folder.load_manifest(data_dir)
    tokenizer = Tokenizer.load(data_dir / data_folder.TOKENIZER)
    originals = {
        path.read_text(): domain
        for domain in ("text", "code")
        for path in (sources / domain).glob("*.txt")
    }
    found = {}
    for domain in ("text", "code", "mixed"):
        for split in ("train", "validation", "test"):
            file = token_files.read_tokens(data_dir, domain, split)
            assert file.tokens.dtype == np.uint16
            texts = []
            for begin, end in zip([0, *file.ends[:-1]], file.ends, strict=True):
                *ids, last = file.tokens[begin:end].tolist()
                assert last == tokenizer.end_of_text and tokenizer.end_of_text not in ids
                texts.append(tokenizer.decode(ids))
            found[domain, split] = texts
            counts = manifest.counts[domain][split]
            size = sum(len(text.encode()) for text in texts)
            assert counts == token_files.SplitCounts(len(texts), size, len(file.tokens))
            assert tokenizer.token_bytes[file.tokens].sum() == size
    for domain, total in (("text", 28), ("code", 20)):
        splits = [found[domain, split] for split in ("train", "validation", "test")]
        texts = [text for split in splits for text in split]
        assert len(texts) == total == len(set(texts))
        assert [len(split) for split in splits[1:]] == [round(0.2 * total), round(0.1 * total)]
        assert all(originals[text] == domain for text in texts)
    for split in ("train", "validation", "test"):
        both = found["text", split] + found["code", split]
        assert sorted(found["mixed", split]) == sorted(both)
        assert found["mixed", split] != both or len(both) <= 10  # so few may lie so by chance
    retrained = Tokenizer.train(found["mixed", "train"], 300)
    assert [retrained.encode(text) for text in originals] == list(map(tokenizer.encode, originals))
    order = [int(text.split()[1].rstrip(":")) for text in found["text", "train"]]
    assert order != sorted(order)


def test_a_given_tokenizer_encodes_the_documents(prepared, config_file, tmp_path, sources):
    """Ranks of its own, the end of text behind them, and room for special tokens."""
    own = Tokenizer.load(prepared[0] / data_folder.TOKENIZER)
    given = tmp_path / "given.tiktoken"
    pieces = [own.bytes_of([index]) for index in range(1, 300)]
    given.write_text(
        "".join(f"{base64.b64encode(piece).decode()} {n}\n" for n, piece in enumerate(pieces))
    )
    options = ["--config", str(config_file), "--prepare.tokenizer", str(given)]
    config = cli.parse_config([*options, "--model.vocab_size", "310"], "")
    prepare(config)
    tokenizer = Tokenizer.load(tmp_path / "data" / data_folder.TOKENIZER)
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (310, 299)
    assert data_folder.load_manifest(tmp_path / "data").vocab_size == 310
    for split in ("train", "validation"):
        before = token_files.read_tokens(prepared[0], "mixed", split)
        after = token_files.read_tokens(tmp_path / "data", "mixed", split)
        np.testing.assert_array_equal(before.ends, after.ends)
        np.testing.assert_array_equal((before.tokens.astype(int) - 1) % 300, after.tokens)
    # Another content of the same file is another input; and its own data fit again.
    inputs = data_folder.load_manifest(tmp_path / "data").inputs
    given.write_text(given.read_text() + "\n")
    prepare(config)
    assert data_folder.load_manifest(tmp_path / "data").inputs != inputs
    kept = ["--prepare.tokenizer", str(prepared[0] / data_folder.TOKENIZER)]
    prepare(cli.parse_config(["--config", str(config_file), *kept], ""))
    found, wanted = hashes(tmp_path / "data"), hashes(prepared[0])
    assert found == wanted


def test_the_answers_of_chats_are_marked_in_the_token_files(tmp_path, sources):
    words = random.Random(1)

    def said(role):
        return {"role": role, "content": f"{role}: " + " ".join(words.choices(WORDS, k=60))}

    chats = [[said("user"), said("assistant"), said("user")] for _ in range(12)]
    chats = [[*chat, said("assistant")] if i % 2 else chat for i, chat in enumerate(chats)]
    lines = "".join(json.dumps({"messages": chat}) + "\n" for chat in chats)
    (tmp_path / "chats.jsonl").write_text(lines)
    listed = f"[{tmp_path / 'chats.jsonl'}, {sources / 'text'}]"
    options = ["--config", str(write_config(tmp_path, sources, text=listed))]
    data_dir = tmp_path / "data"
    prepare(cli.parse_config(options, ""))
    assert token_files.read_tokens(data_dir, "text", "train").learned is None
    prepare(cli.parse_config([*options, "--prepare.answers_only", "true"], ""))
    data_folder.load_manifest(data_dir)
    tokenizer = Tokenizer.load(data_dir / data_folder.TOKENIZER)
    answers, others = set(), 0
    for split in ("train", "validation", "test"):
        file = token_files.read_tokens(data_dir, "text", split)
        for begin, end in zip([0, *file.ends[:-1]], file.ends, strict=True):
            ids, learned = file.tokens[begin:end], file.learned[begin:end]
            if learned.all():
                others += 1
                continue
            answers.add(tokenizer.decode(ids[learned]))
            # The end is learned where an answer is the last message.
            assert learned[-1] == (tokenizer.decode(ids).count("<|assistant|>") == 2)
        mixed = token_files.read_tokens(data_dir, "mixed", split)
        code = token_files.read_tokens(data_dir, "code", split)
        assert mixed.learned.sum() == file.learned.sum() + len(code.tokens) and code.learned.all()
    assert others == 28
    assert answers == {
        "".join(f"{each['content']}\n" for each in chat if each["role"] == "assistant")
        for chat in chats
    }


def test_answer_roles_that_no_message_has_are_refused(tmp_path, sources):
    chat = [{"role": role, "content": f"{role} says it"} for role in ("user", "assistant")]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": chat}) + "\n")
    listed = f"[{tmp_path / 'chats.jsonl'}, {sources / 'text'}]"
    options = ["--config", str(write_config(tmp_path, sources, text=listed))]
    options += ["--prepare.answers_only=true", "--prepare.answer_roles=[bot]"]
    message = r"prepare.answer_roles: \[bot\]; the roles are assistant, user: name there"
    with pytest.raises(UserError, match=message):
        prepare(cli.parse_config(options, ""))
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prepare.tokenizer", "nowhere"], "prepare.tokenizer: nowhere: cannot be read: No such"),
        (
            ["--prepare.tokenizer", "OWN", "--model.vocab_size", "1400"],
            "has 300 tokens, and model.v",
        ),
        (["--prepare.tokenizer", "OWN", "--prepare.end_of_text", "</s>"], "has no token </s>"),
        (["--prepare.end_of_text", "</s>"], "end_of_text is of a given tokenizer: set prepare.tok"),
    ],
)
def test_a_wrong_tokenizer_is_one_line(prepared, config_file, options, message):
    own = str(prepared[0] / data_folder.TOKENIZER)
    words = [own if word == "OWN" else word for word in options]
    with pytest.raises(UserError, match=message):
        prepare(cli.parse_config(["--config", str(config_file), *words], ""))
    assert not config_file.with_name("data").exists()


def test_the_manifest_tells_what_the_data_were_made_from(prepared, sources):
    manifest = data_folder.load_manifest(prepared[0])
    assert (manifest.vocab_size, manifest.prepare["seed"]) == (300, 0)
    assert manifest.prepare["validation_fraction"] == 0.2
    assert manifest.prepare["test_fraction"] == 0.1
    assert "engine" not in manifest.prepare
    packages = {"datatrove", "magika", "numpy", "pyarrow", "tokenizers", "zstandard"}
    assert set(manifest.versions) == {"python", *packages}
    assert len(manifest.files) == 20
    account = json.loads((prepared[0] / "account.json").read_text())
    (text, code), total = account["sources"], account["total"]
    assert (text["key"], text["path"]) == ("prepare.text", str(sources / "text"))
    assert (text["documents"], text["files"]) == ({"text": 28}, 30)
    assert text["rejected"] == {"undecodable": 1, "empty": 1}
    assert text["examples"]["empty"] == [str(sources / "text" / "empty")]
    assert len(text["sha256"]) == 1 and text["sha256"] != code["sha256"]
    assert total["documents"] == {"text": 28, "code": 20}


def test_two_processes_write_the_same_bytes(prepared, tmp_path, sources):
    config = write_config(tmp_path, sources)
    variables = {"PYTHONHASHSEED": "7", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-m", "train.prepare", "--config", str(config)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | variables,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert hashes(tmp_path / "data") == hashes(prepared[0])
    for word in (
        "validation",
        "test ",
        "bytes/token",
        "1 rejected, undecodable: ",
        str(tmp_path / "data"),
    ):
        assert word in done.stdout
    prepare(cli.parse_config(["--config", str(config), "--prepare.seed", "1"], ""))
    assert hashes(tmp_path / "data") != hashes(prepared[0])
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "data"}


def test_large_vocabularies_get_wider_tokens():
    assert (
        token_files.token_dtype(65535) == np.uint16 and token_files.token_dtype(65536) == np.uint32
    )


KILL_BEFORE_THE_MANIFEST = "data_folder.write_manifest = die"
KILL_WHILE_REPLACING = """
rename = Path.rename
Path.rename = lambda path, to: die() if path.name == "finished" else rename(path, to)
"""


@pytest.mark.parametrize("fatal", [KILL_BEFORE_THE_MANIFEST, KILL_WHILE_REPLACING])
def test_a_killed_run_leaves_whole_data(config_file, tmp_path, fatal):
    data_dir = tmp_path / "data"
    prepare(cli.parse_config(["--config", str(config_file)], ""))
    before = hashes(data_dir)
    program = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from train.data import data_folder\n"
        "from train.preparation.prepare_data import prepare\n"
        "from train.settings import cli\n"
        "def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)\n"
        f"{fatal}\n"
        "cli.Command(prepare, '').run()\n"
    )
    arguments = ["--config", str(config_file), "--prepare.seed", "1"]
    killed = subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    # Another command, which ends without data of its own, leaves the old ones.
    with pytest.raises(UserError, match="vocab_size"):
        prepare(cli.parse_config([*arguments, "--model.vocab_size", "9999"], ""))
    assert hashes(data_dir) == before
    data_folder.load_manifest(data_dir)
    prepare(cli.parse_config([*arguments[:-1], "2"], ""))
    assert data_folder.load_manifest(data_dir).prepare["seed"] == 2
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "data"}


def test_two_at_once_are_one(config_file, tmp_path):
    """The second is told so, and does not disturb the first."""
    config = cli.parse_config(["--config", str(config_file)], "")
    with data_folder.working_folder(tmp_path / "data", "first", dry_run=False) as folder:
        (folder / "work").touch()
        with pytest.raises(UserError, match=r"another train\.prepare is at work on it"):
            prepare(config)
        assert (folder / "work").exists()
        done = run("--config", config_file)
        assert fails(done, "another train.prepare is at work on it")
        prepare(config, dry_run=True)
    prepare(config)
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "data"}


@pytest.mark.parametrize("next_one", ["first", "second"])
def test_nobody_continues_in_what_an_interrupted_removal_left(tmp_path, monkeypatch, next_one):
    """At the end, and at the start of a preparation of other inputs."""

    def interrupted(folder, **_):
        for path in folder.rglob("survey"):
            path.unlink()
            raise KeyboardInterrupt

    data = tmp_path / "data"
    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        with data_folder.working_folder(data, "first", dry_run=False) as folder:
            (folder / "survey").touch()
            (folder / "completions").touch()
            context.setattr(data_folder.shutil, "rmtree", interrupted)
            if next_one == "second":
                raise KeyboardInterrupt
        raise AssertionError
    if next_one == "second":
        with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
            context.setattr(data_folder.shutil, "rmtree", interrupted)
            with data_folder.working_folder(data, "second", dry_run=False):
                pass
    with data_folder.working_folder(data, "first", dry_run=False) as folder:
        assert list(folder.iterdir()) == []


def test_a_full_disk_loses_nothing_of_what_is_done(config_file, tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    config = cli.parse_config(["--config", str(config_file)], "")
    message = r"^.*/\.data\.prepare-partial/\w+: No space left on device; when that is mended, the"
    with monkeypatch.context() as context:
        context.setattr(data_folder, "write_manifest", full)
        with pytest.raises(UserError, match=message):
            prepare(config)
    assert not (tmp_path / "data").exists()
    prepare(config)
    assert "encode: done before" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "data"}


def copy(prepared, root: Path) -> Path:
    for path in prepared[0].rglob("*"):
        if path.is_file():
            target = root / path.relative_to(prepared[0])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return root


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "text/validation/ends.npy", "code/test/tokens.npy"]
)
def test_changed_files_are_found(prepared, tmp_path, name):
    data_dir = copy(prepared, tmp_path / "data")
    data_folder.load_manifest(data_dir)
    content = bytearray((data_dir / name).read_bytes())
    content[-2] ^= 1
    (data_dir / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is not the file that the manifest describes"):
        data_folder.load_manifest(data_dir)
    (data_dir / name).write_bytes(content[:-1])
    with pytest.raises(UserError, match=f"{name} is not the file that the manifest describes"):
        data_folder.load_manifest(data_dir)
    (data_dir / name).unlink()
    with pytest.raises(UserError, match=f"cannot read {name}: No such file.*train.prepare again"):
        data_folder.load_manifest(data_dir)


ENTRY = {"bytes": 1, "sha256": "0" * 64}


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "text/../../secret"])
def test_a_manifest_names_files_in_its_folder_alone(tmp_path, name):
    described = data_folder.Manifest(
        vocab_size=1, prepare={}, inputs="", counts={}, cut=0, versions={}, files={name: ENTRY}
    )
    content = {"format": "mmrec-jax prepared data", "version": 3, **vars(described)}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"not a manifest of .* .{name} is outside the folder."):
        data_folder.load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no manifest.json: .* or prepare the data first: python -m train.prepare"),
        ("{", "manifest.json is not a manifest"),
        ("[]", "manifest.json is not a manifest"),
        ("[" * 5000, "manifest.json is not a manifest"),
        ('{"format": "other"}', "it is another program's"),
        ('{"format": "mmrec-jax prepared data", "version": 99}', "it has version 99"),
        ('{"format": "mmrec-jax prepared data", "version": 3}', "missing"),
        (
            '{"format": "mmrec-jax prepared data", "version": 1}',
            "has version 1, this program reads version 3: run python -m train.prepare again",
        ),
    ],
)
def test_broken_manifests_are_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=message):
        data_folder.load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("ends", "values", "message"),
    [
        (np.array([2, 5]), np.zeros(5, np.uint16), None),
        (np.array([2, 4]), np.zeros(5, np.uint16), "do not fit its 5 tokens"),
        (np.array([3, 2, 5]), np.zeros(5, np.uint16), "do not fit"),
        (np.array([0, 5]), np.zeros(5, np.uint16), "do not fit"),
        (np.array([], np.int64), np.zeros(0, np.uint16), "list of document ends"),
        (np.array([5], np.int32), np.zeros(5, np.uint16), "list of document ends"),
        (np.array([5]), np.zeros(5, np.int64), "list of token ids"),
        (np.array([5]), np.zeros((5, 1), np.uint16), "list of token ids"),
        (np.array([5]), np.array([None] * 5), "cannot read"),
        (np.array([5]), None, "cannot read"),
    ],
)
def test_token_files_are_checked(tmp_path, ends, values, message):
    folder = tmp_path / "text" / "train"
    folder.mkdir(parents=True)
    np.save(folder / "ends.npy", ends)
    if values is not None:
        np.save(folder / "tokens.npy", values)
    if message is None:
        assert token_files.read_tokens(tmp_path, "text", "train").ends.tolist() == [2, 5]
        return
    with pytest.raises(UserError, match=message):
        token_files.read_tokens(tmp_path, "text", "train")


@pytest.mark.parametrize("mask", [np.ones(4, bool), np.ones(5, np.uint8), None])
def test_a_mask_that_does_not_fit_is_refused(tmp_path, mask):
    folder = tmp_path / "text" / "train"
    folder.mkdir(parents=True)
    np.save(folder / "ends.npy", np.array([2, 5]))
    np.save(folder / "tokens.npy", np.zeros(5, np.uint16))
    if mask is None:
        (folder / "learned.npy").write_bytes(b"x")
    else:
        np.save(folder / "learned.npy", mask)
    with pytest.raises(UserError, match=r"learned.npy"):
        token_files.read_tokens(tmp_path, "text", "train")


def test_empty_token_files_are_refused(tmp_path):
    folder = tmp_path / "code" / "train"
    folder.mkdir(parents=True)
    (folder / "tokens.npy").touch()
    with pytest.raises(UserError, match=r"cannot read .*tokens.npy"):
        token_files.read_tokens(tmp_path, "code", "train")


# What users get wrong, as they see it


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"text": "[nowhere/at/all]"}, ["prepare.text: nowhere/at/all does not exist"]),
        ({"text": "[EMPTY]"}, ["prepare.text: no usable document in ", "EMPTY"]),
        ({"text": "[LATIN1]"}, ["prepare.text: no usable document", "1 undecodable"]),
        ({"code": "[SINGLE]"}, ["code: the 3 splits", "at least 3 files, found 1"]),
        ({"vocab_size": "9999"}, ["model.vocab_size: 9999 tokens are more than the "]),
        (
            {"data_dir": "FOREIGN", "text": "[nowhere]"},
            ["FOREIGN has files that are no prepared data, such as mine"],
        ),
        (
            {"data_dir": "SINGLE/below"},
            ["cannot write data_dir ", "SINGLE/below: Not a directory: choose"],
        ),
        (
            {"vocab_size": "big"},
            ["config.yaml line 5: model.vocab_size: expected a whole number, not big"],
        ),
        ({"seed": "0\nsead: 1"}, ["config.yaml line 4: unknown key sead; did you mean seed?"]),
        ({"seed": "0\nseed: 1"}, ["config.yaml line 4: seed was set on line 3 already"]),
    ],
)
def test_mistakes_in_the_config_end_with_one_line(tmp_path, sources, changes, parts):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FOREIGN").mkdir()
    (tmp_path / "FOREIGN" / "mine").write_text("precious")
    (tmp_path / "SINGLE").write_text("x = 1")
    (tmp_path / "LATIN1").write_bytes(b"caf\xe9")
    for name in ("EMPTY", "FOREIGN", "SINGLE", "LATIN1"):
        changes = {key: value.replace(name, str(tmp_path / name)) for key, value in changes.items()}
    assert fails(run("--config", write_config(tmp_path, sources, **changes)), *parts)
    assert not (tmp_path / "data").exists()
    assert (tmp_path / "FOREIGN" / "mine").read_text() == "precious"


@pytest.mark.parametrize("name", ["none", "SINGLE/below"])
def test_a_data_folder_that_is_not_there_is_to_be_prepared(tmp_path, name):
    (tmp_path / "SINGLE").touch()
    message = rf"{name} does not exist: .* prepare the data first: python -m train.prepare --config"
    with pytest.raises(UserError, match=message):
        data_folder.load_manifest(tmp_path / name)


def test_too_small_a_vocabulary_is_refused_before_anything_is_read(tmp_path, sources):
    path = write_config(tmp_path, sources, vocab_size="256", text="[nowhere/at/all]")
    with pytest.raises(UserError, match=r"model.vocab_size: 256 is too small"):
        prepare(cli.parse_config(["--config", str(path)], ""))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["--config FILE is required"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml: cannot be read: No such file or directory"]),
        (["--config", "CONFIG", "--model.vocab", "5"], ["unknown option --model.vocab"]),
        (
            ["--config", "CONFIG", "--prepare.validation_fraction", "1"],
            ["command line: prepare.validation_fraction must lie in (0, 1), not 1.0"],
        ),
        (
            ["--config", "CONFIG", "--prepare.test_fraction", "0"],
            ["command line: prepare.test_fraction must lie in (0, 1), not 0.0"],
        ),
        (
            ["--config", "CONFIG", "--prepare.test_fraction", "0.8"],
            ["command line: prepare.test_fraction and validation_fraction must be below 1 tog"],
        ),
    ],
)
def test_mistakes_on_the_command_line_end_with_one_line(config_file, arguments, parts):
    done = run(*(str(config_file) if word == "CONFIG" else word for word in arguments))
    assert fails(done, *parts)


def test_data_of_an_older_version_are_replaced(prepared, tmp_path, sources):
    data_dir = copy(prepared, tmp_path / "data")
    content = json.loads((data_dir / "manifest.json").read_text())
    for version, message in ((1, "run python -m train.prepare again"), (4, "another data_dir")):
        other = content | {"version": version}
        if version == 1:  # as it was then
            other = {"seed": 0} | {key: value for key, value in other.items() if key != "inputs"}
        (data_dir / "manifest.json").write_text(json.dumps(other))
        with pytest.raises(
            UserError, match=f"has version {version}, .* reads version 3.*{message}"
        ):
            data_folder.load_manifest(data_dir)
        config = cli.parse_config(["--config", str(write_config(tmp_path, sources))], "")
        if version == 4:
            with pytest.raises(UserError, match="has version 4"):
                prepare(config)
        else:
            prepare(config)
            assert hashes(data_dir) == hashes(prepared[0])


def test_a_data_folder_with_own_files_beside_the_data_is_not_replaced(prepared, tmp_path, sources):
    data_dir = copy(prepared, tmp_path / "data")
    (data_dir / "notes.md").write_text("precious")
    config = cli.parse_config(["--config", str(write_config(tmp_path, sources))], "")
    with pytest.raises(UserError, match=r"such as notes.md"):
        prepare(config)
    (data_dir / "notes.md").unlink()
    prepare(config)
    (data_dir / "manifest.json").write_text('{"name": "a web extension"}')
    with pytest.raises(UserError, match=r"not a manifest of train.prepare"):
        prepare(config)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is not a folder"):
        prepare(dataclasses.replace(config, data_dir=str(tmp_path / "file")))
