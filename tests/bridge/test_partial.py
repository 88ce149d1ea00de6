"""Partial loading: what fits is the file's bit for bit, the rest is drawn, and all is reported."""

import dataclasses
import json

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from helpers.paths import GOLDEN

import bridge
from bridge import ConfigError, MismatchError, NonFiniteWarning, load_partial
from bridge.keys import MODEL_CLASSES, entries
from bridge.weights import tensors_of, variables
from mmrec_jax import ModelConfig

FOLDERS = ["base", "base_hem_dpg", "base_sparse", "base_uboo", "expert", "fusion_concatenate"]
FOLDERS += ["mmrec100m_concatenate"]


def content_of(folder, file="checkpoint.pt"):
    return torch.load(GOLDEN / folder / file, weights_only=True)


@pytest.fixture
def partially(tmp_path):
    """Loads a golden file whose tensors were changed."""

    def load(folder, change, file="checkpoint.pt", **arguments):
        content = content_of(folder, file)
        change(content["model_state_dict"])
        torch.save(content, tmp_path / "changed.pt")
        return load_partial(tmp_path / "changed.pt", **arguments)

    return load


def values_of(model):
    return {name: tensor.read() for name, tensor in tensors_of(model).items()}


def assert_same_values(model, expected):
    found, wanted = values_of(model), values_of(expected)
    assert found.keys() == wanted.keys()
    for name, values in found.items():
        assert values.tobytes() == wanted[name].tobytes(), name


def drawn(checkpoint, seed):
    model = checkpoint.model
    return values_of(type(model)(checkpoint.config, rngs=nnx.Rngs(seed)))


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_fits_completely_is_loaded_as_without_partial(folder):
    path = GOLDEN / folder / "checkpoint.pt"
    loaded, report = load_partial(path)
    assert report.complete
    assert report.training_state in ("loaded", "none in the file")
    assert report.loaded == tuple(content_of(folder)["model_state_dict"])
    assert report.values_loaded == report.values > 0
    inspected = sum(share.tensors for share in bridge.inspect(path).dtypes.values())
    assert report.tensors_loaded == report.tensors == inspected
    expected = bridge.load(path)
    assert_same_values(loaded.model, expected.model)
    assert loaded.config == expected.config
    assert loaded.metadata == expected.metadata


@pytest.mark.parametrize("model_only", [False, True])
def test_training_state_comes_with_a_complete_model_only(model_only, partially):
    path = GOLDEN / "trajectory" / "checkpoint_step_12.pt"
    loaded, report = load_partial(path, model_only=model_only)
    assert bridge.compare(loaded, bridge.load(path, model_only=model_only)).agrees()
    assert report.training_state.startswith("left out: only" if model_only else "loaded")

    loaded, report = partially(
        "trajectory",
        lambda tensors: tensors.pop("norm.weight"),
        "checkpoint_step_12.pt",
        model_only=model_only,
    )
    assert (loaded.optimizer_state, loaded.scheduler_state) == (None, None)
    assert (loaded.step, loaded.avg_loss) == (0, 0.0)
    assert report.training_state.startswith("left out: ")


def test_an_optimizer_that_does_not_fit_is_left_out_with_the_reason(tmp_path):
    content = content_of("trajectory", "checkpoint_step_12.pt")
    content["optimizer_state_dict"]["param_groups"][0]["params"].pop()
    torch.save(content, tmp_path / "odd.pt")
    loaded, report = load_partial(tmp_path / "odd.pt")
    assert report.complete
    assert report.training_state.startswith("left out: optimizer_state_dict is over 61 param")
    assert (loaded.optimizer_state, loaded.scheduler_state, loaded.step) == (None, None, 0)


@hypothesis.given(data=st.data(), folder=st.sampled_from(FOLDERS), seed=st.integers(0, 3))
@hypothesis.settings(max_examples=12, deadline=None)
def test_every_tensor_is_reported_once_and_comes_from_where_it_says(
    data, folder, seed, tmp_path_factory
):
    content = content_of(folder)
    tensors = content["model_state_dict"]
    names = list(tensors)
    # The tied table has tests of its own, and without any tensor nothing fits.
    spoilt = data.draw(
        st.lists(
            st.sampled_from([name for name in names[:-1] if name != "embedding.weight"]),
            unique=True,
            max_size=min(8, len(names) - 1),
        )
    )
    fates = {name: data.draw(st.sampled_from(["missing", "misshapen", "type"])) for name in spoilt}
    wanted = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name, fate in fates.items():
        if fate == "missing":
            del tensors[name]
        elif fate == "misshapen":
            tensors[name] = torch.zeros(*wanted[name], 2)
        else:
            dtype = torch.float32 if name.endswith("powers") else torch.float64
            tensors[name] = tensors[name].to(dtype)
    extra = data.draw(st.lists(st.sampled_from(["a.b", "blocks.0.W_x.bias", "head"]), unique=True))
    tensors |= {name: torch.ones(3) for name in extra}
    path = tmp_path_factory.mktemp("spoilt") / "spoilt.pt"
    torch.save(content, path)

    # A config of one's own: most of a small model may be missing.
    config = bridge.load(GOLDEN / folder / "checkpoint.pt").config
    loaded, report = load_partial(path, config=config, seed=seed)
    powers = {name for name, fate in fates.items() if name.endswith("powers") and fate == "missing"}
    assert set(report.implied) == powers
    assert set(report.missing) == {n for n, fate in fates.items() if fate == "missing"} - powers
    assert {item.name: item[1:] for item in report.misshapen} == {
        name: ((*wanted[name], 2), wanted[name])
        for name, fate in fates.items()
        if fate == "misshapen"
    }
    assert {item.name for item in report.wrong_type} == {
        name for name, fate in fates.items() if fate == "type"
    }
    assert sorted(report.unexpected) == sorted(extra)
    assert report.loaded == tuple(name for name in names if name not in fates)
    assert report.complete == (not extra and fates.keys() <= powers)
    assert json.loads(json.dumps(report.to_json()))["loaded"] == list(report.loaded)

    found, initial = values_of(loaded.model), drawn(loaded, seed)
    for name in names:
        expected = content["model_state_dict"][name].numpy() if name in report.loaded else None
        assert np.array_equal(found[name], initial[name] if expected is None else expected), name


def test_counts_are_of_tensors_and_values(partially):
    loaded, report = partially("base", lambda tensors: tensors.pop("blocks.0.W_q.weight"))
    total = sum(array.size for array in variables(loaded.model).values())
    assert (report.values_loaded, report.values) == (total - 32 * 32, total)
    described = report.to_json()
    assert described["tensors"] == {"loaded": 61, "model": 62}
    assert described["values"] == {"loaded": total - 32 * 32, "model": total}


def test_other_seeds_draw_other_values(partially):
    first, second = (
        partially("base", lambda tensors: tensors.pop("blocks.0.W_q.weight"), seed=seed)[0]
        for seed in (0, 1)
    )
    first, second = values_of(first.model), values_of(second.model)
    differ = [name for name in first if not np.array_equal(first[name], second[name])]
    assert differ == ["blocks.0.W_q.weight"]


@pytest.mark.parametrize(
    ("left", "implied"),
    [("embedding.weight", "lm_head.weight"), ("lm_head.weight", "embedding.weight")],
)
def test_one_name_of_the_tied_table_is_enough(left, implied, partially):
    loaded, report = partially("base", lambda tensors: tensors.pop(implied))
    assert report.complete
    assert report.implied == (implied,)
    assert left in report.loaded and implied not in report.loaded
    assert_same_values(loaded.model, bridge.load(GOLDEN / "base" / "checkpoint.pt").model)


def test_without_any_of_its_names_the_tied_table_is_missing(partially):
    def change(tensors):
        del tensors["embedding.weight"], tensors["lm_head.weight"]

    loaded, report = partially("base", change, seed=2)
    assert report.missing == ("embedding.weight", "lm_head.weight")
    found = values_of(loaded.model)["lm_head.weight"]
    assert np.array_equal(found, drawn(loaded, 2)["lm_head.weight"])


def test_the_embedding_wins_over_a_head_that_differs(partially):
    def change(tensors):
        tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1

    loaded, report = partially("base", change)
    assert report.wrong_values == ("lm_head.weight",)
    assert not report.complete
    expected = content_of("base")["model_state_dict"]["embedding.weight"].numpy()
    assert np.array_equal(values_of(loaded.model)["lm_head.weight"], expected)


def test_the_untied_head_is_a_tensor_of_its_own(partially):
    _, report = partially("mmrec100m_concatenate", lambda tensors: tensors.pop("lm_head.weight"))
    assert report.missing == ("lm_head.weight",) and not report.implied


def test_powers_that_are_no_powers_are_not_used(partially):
    def change(tensors):
        tensors["blocks.1.ffn.router.powers"] += 1

    loaded, report = partially("base_sparse", change)
    assert report.wrong_values == ("blocks.1.ffn.router.powers",)
    assert values_of(loaded.model)["blocks.1.ffn.router.powers"].tolist() == [1, 2, 4]


def test_of_a_name_that_comes_twice_the_last_is_taken(partially):
    def change(tensors):
        tensors["module.norm.weight"] = tensors["norm.weight"] * 2

    loaded, report = partially("base", change)
    assert report.duplicates == ("norm.weight",)
    assert not report.complete
    expected = content_of("base")["model_state_dict"]["norm.weight"].numpy() * 2
    assert np.array_equal(values_of(loaded.model)["norm.weight"], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_initial_values_have_the_dtype_of_the_loaded(dtype, partially):
    def change(tensors):
        tensors |= {name: tensor.to(dtype) for name, tensor in tensors.items()}
        del tensors["blocks.0.W_q.weight"]

    loaded, _ = partially("base", change)
    dtypes = {str(array.dtype) for array in variables(loaded.model).values()}
    assert dtypes == {str(dtype).removeprefix("torch.")}


def test_nan_is_reported(partially):
    def change(tensors):
        tensors["norm.weight"][3] = float("nan")
        del tensors["blocks.0.W_q.weight"]

    with pytest.warns(NonFiniteWarning, match=r"norm.weight \(1 of 32 values\)"):
        partially("base", change)


OTHER = ModelConfig(vocab_size=160, model_dim=32, num_layers=3, num_heads=2, ffn_dim=96)


def test_the_config_can_be_another(partially):
    loaded, report = partially("base", lambda tensors: None, config=OTHER)
    assert loaded.config == OTHER
    assert "blocks.2.W_q.weight" in report.missing
    assert ("blocks.0.ffn.0.weight", (80, 32), (96, 32)) in report.misshapen
    assert not report.unexpected
    assert "config" not in loaded.metadata


@pytest.mark.parametrize("target", MODEL_CLASSES)
def test_a_class_can_be_made_of_another(target, partially):
    config = dataclasses.replace(OTHER, num_layers=2, ffn_dim=80)
    if target == "FusionLayer":
        with pytest.raises(
            MismatchError, match="none of its tensors fits the class FusionLayer"
        ) as caught:
            partially("base", lambda tensors: None, config=config, model_class=target)
        assert len(str(caught.value)) < 500  # with the path, and the first of many tensors
        return
    loaded, report = partially("base", lambda tensors: None, config=config, model_class=target)
    assert type(loaded.model) is MODEL_CLASSES[target]
    keys = {entry.key for entry in entries(target, config)}
    mine = {entry.key for entry in entries("MMRecModel", config)}
    misshapen = {item.name for item in report.misshapen}
    assert set(report.loaded) | misshapen == keys & mine
    assert set(report.missing) == keys - mine
    assert set(report.unexpected) == mine - keys


def test_names_that_show_no_class_are_those_of_a_base_model(tmp_path):
    torch.save({"norm.weight": torch.ones(32), "wte": torch.zeros(2)}, tmp_path / "foreign.pt")
    loaded, report = load_partial(tmp_path / "foreign.pt", config=OTHER)
    assert report.model_class == type(loaded.model).__name__ == "MMRecModel"
    assert (report.loaded, report.unexpected) == (("norm.weight",), ("wte",))
    with pytest.raises(ConfigError, match="no model has tensors of these names"):
        load_partial(tmp_path / "foreign.pt")


def test_a_foreign_class_can_be_adapted(partially, tmp_path):
    content = content_of("base")
    content["metadata"]["model_class"] = "GPT2"
    torch.save(content, tmp_path / "foreign.pt")
    with pytest.raises(ConfigError, match=r"metadata.model_class is 'GPT2'"):
        load_partial(tmp_path / "foreign.pt")
    loaded, _ = load_partial(tmp_path / "foreign.pt", config=OTHER)
    assert type(loaded.model).__name__ == "MMRecModel"


def test_a_block_that_is_missing_whole_is_drawn(partially):
    def change(tensors):
        for name in [name for name in tensors if name.startswith("blocks.0.")]:
            del tensors[name]

    _, report = partially("base", change)
    assert len(report.missing) == 30
    assert all(name.startswith("blocks.0.") for name in report.missing)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {"embedding.weight": torch.zeros(3, 4)},
            r"1 misshapen: embedding.weight is \[3, 4\], not .*; give the model the dimensions",
        ),
        (
            {"norm.weight": torch.zeros(OTHER.model_dim, dtype=torch.float64)},
            "1 of the wrong type: norm.weight is float64; save them as float32",
        ),
        ({"wte": torch.zeros(2)}, "1 of other names: wte; rename them in PyTorch"),
    ],
)
def test_where_nothing_fits_the_error_says_why(tensors, message, partially):
    def change(content):
        content.clear()
        content.update(tensors)

    fits = r"changed.pt: none of its tensors fits the class MMRecModel with this config: "
    with pytest.raises(MismatchError, match=fits + message) as caught:
        partially("base", change, config=OTHER)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "hostile", [{"vocab_size": 10**8}, {"ffn_dim": 10**8}, {"use_dpg": True, "dpg_rank": 10**8}]
)
def test_a_file_cannot_ask_for_a_model_far_larger_than_itself(hostile, tmp_path):
    content = content_of("base")
    content["metadata"]["config"].update(hostile)
    torch.save(content, tmp_path / "bomb.pt")
    with pytest.raises(ConfigError, match=r"bomb.pt: its config is of a model of \d+ values") as e:
        load_partial(tmp_path / "bomb.pt")
    assert "\n" not in str(e.value)


def test_a_config_of_ones_own_may_be_larger(partially):
    config = dataclasses.replace(OTHER, vocab_size=20_000)
    loaded, report = partially("base", lambda tensors: None, config=config)
    assert report.values > 10 * report.values_loaded
    assert loaded.config.vocab_size == 20_000


def test_a_config_that_the_class_cannot_have_is_an_error(partially):
    config = dataclasses.replace(OTHER, fused_dim=63)
    with pytest.raises(ConfigError, match="fused_dim must be 2 \\* model_dim = 64, not 63"):
        partially("mmrec100m_concatenate", lambda tensors: None, config=config)


@pytest.mark.parametrize("kind", ["x.safetensors", "run"])
def test_the_other_formats_can_be_loaded_partially(kind, tmp_path):
    source = bridge.load(GOLDEN / "trajectory" / "checkpoint_step_12.pt")
    if kind == "run":
        state = tmp_path / kind / "state" / "12"
        bridge.save_orbax(state, source.model, **source.training_state())
    else:
        bridge.save_file(tmp_path / kind, source)
    loaded, report = load_partial(tmp_path / kind)
    assert report.complete
    assert report.training_state in ("loaded", "none in the file")
    assert_same_values(loaded.model, source.model)
    assert loaded.optimizer_state.hyperparameters == source.optimizer_state.hyperparameters
    assert (loaded.step, loaded.scheduler_state) == (12, source.scheduler_state)
    loaded, report = load_partial(tmp_path / kind, config=OTHER)
    assert report.loaded and report.missing and report.misshapen
    weight = jnp.asarray(values_of(source.model)["norm.weight"])
    assert jnp.array_equal(values_of(loaded.model)["norm.weight"], weight)
