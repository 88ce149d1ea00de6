"""Every file of a state, flipped, cut, emptied, removed or swapped: always found."""

import random
import shutil

import pytest
from helpers.broken_runs import BASE, STEPS, started

import bridge
from bridge.weights import variables
from train.checkpoints import run_states
from train.data.prepared import PreparedData
from train.run import resume
from train.settings.cli import parse_config
from train.stages.base import BaseStage
from train.system.errors import UserError

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]

FLIPS, CUTS = 8, 4
BEFORE = STEPS - 2


@pytest.fixture(scope="module")
def other(folder):
    """A run that differs in its seed alone."""
    run = folder / "other" / "checkpoints_base"
    assert started(folder, run, *BASE, "--seed", "4").wait().returncode == 0
    return run


def damages(path, before, moments):
    """What a disk can do to a file: by name, its new content; None removes it."""
    content = path.read_bytes()
    for _ in range(FLIPS if content else 0):
        place, bit = moments.randrange(len(content)), moments.randrange(8)
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        yield f"bit {bit} of byte {place} flipped", bytes(flipped)
    for _ in range(CUTS if len(content) > 1 else 0):
        length = moments.randrange(1, len(content))
        yield f"cut to {length} bytes", content[:length]
    if content:
        yield "emptied", b""
    yield "longer", content + b"\0"
    yield "removed", None
    if before is not None and before != content:
        yield "of the step before", before


def put(path, content):
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


def found_at(run):
    """The step that a run resumes from; 0 if there is nothing whole."""
    try:
        return run_states.restore_newest(run, "base_model")[1].step
    except UserError:
        return 0


def test_every_file_of_a_state(whole, other, tmp_path, figure, capsys):
    moments = random.Random(0)
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    for path in run.glob("*.pt"):
        path.unlink()
    assert found_at(run) == STEPS
    newest, before, others = (bridge.state_folder(run, s) for s in (STEPS, BEFORE, STEPS))
    others = bridge.state_folder(other, STEPS)
    files = [path for path in sorted(newest.rglob("*")) if path.is_file()]
    tried, missed = 0, []
    for path in files:
        name = path.relative_to(newest)
        kept = path.read_bytes()
        same = [each / name for each in (before, others)]
        cases = list(damages(path, None, moments))
        cases += [
            (f"swapped with that of {each.parents[-1]}", each.read_bytes())
            for each in same
            if each.is_file() and each.read_bytes() != kept
        ]
        for case, content in cases:
            put(path, content)
            tried += 1
            if found_at(run) != BEFORE:
                missed.append(f"{name}: {case}")
            path.write_bytes(kept)
    for place in (newest, newest / "arrays", newest / "arrays" / "d"):
        (place / "extra").write_bytes(b"x")
        tried += 1
        if found_at(run) != BEFORE:
            missed.append(f"a further file in {place}")
        (place / "extra").unlink()
    assert found_at(run) == STEPS
    newest.rename(run / "state" / "kept")
    before.rename(newest)
    (run / "state" / "kept").rename(before)
    tried += 1
    if found_at(run) != 0:
        missed.append("two steps swapped as a whole")
    figure(f"damaged states: {tried - len(missed)} of {tried} found, in {len(files)} files")
    assert not missed, "\n".join(missed)


def test_a_state_of_another_run(folder, whole, other, tmp_path, monkeypatch, figure):
    """As a whole, with all its files, in the place of ours."""
    monkeypatch.chdir(folder)
    found = []
    for name in (f"state/{STEPS}", f"base_model_step_{STEPS}.pt"):
        run = tmp_path / name.replace("/", "-") / "checkpoints_base"
        shutil.copytree(whole, run)
        shutil.rmtree(run / "state" / str(STEPS))
        (run / f"base_model_step_{STEPS}.pt").unlink()
        copy = shutil.copytree if (other / name).is_dir() else shutil.copy
        copy(other / name, run / name)
        config = parse_config(["--config", "c.yaml", "--run_dir", str(run.parent)], "")
        with pytest.raises(UserError) as raised:
            resume.restore_newest(
                resume.Plan(config), BaseStage(config), PreparedData(config, "base"), run
            )
        found.append(str(raised.value))
    figure(f"another run's state or .pt file as a whole: {len(found)} of 2 found: {found[0]}")


def test_every_place_of_a_pt_file(whole, tmp_path, figure, capsys):
    """Found, or what is loaded is the same: an archive has bytes that say nothing."""
    moments = random.Random(1)
    run = tmp_path / "run"
    run.mkdir()
    path = run / f"base_model_step_{STEPS}.pt"
    shutil.copy(whole / path.name, path)
    wanted = bridge.load_torch(path)
    kept = path.read_bytes()
    tried, found, missed = 0, 0, []
    cases = [case for _ in range(12) for case in damages(path, None, moments)]
    older = (whole / f"base_model_step_{BEFORE}.pt").read_bytes()
    for case, content in [*cases, ("of the step before", older)]:
        put(path, content)
        tried += 1
        try:
            loaded = run_states.restore_newest(run, "base_model")
        except UserError:
            found += 1
            path.write_bytes(kept)
            continue
        if loaded is None:
            found += 1
        elif not bridge.compare(loaded[1], wanted).agrees() or any(
            (a != b).any()
            for a, b in zip(
                variables(loaded[1].model).values(), variables(wanted.model).values(), strict=True
            )
        ):
            missed.append(case)
        path.write_bytes(kept)
    figure(
        f"damaged .pt files: {found} of {tried} found, {tried - found - len(missed)} with no "
        f"effect, {len(missed)} missed"
    )
    assert not missed, "\n".join(missed)
