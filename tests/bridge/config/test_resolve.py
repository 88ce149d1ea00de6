"""Where a file's config is taken from, what is inferred, and what contradicts the tensors."""

import pytest
import torch
from helpers.paths import GOLDEN

from bridge import ConfigError, MismatchError, load_torch
from mmrec_jax import ModelConfig

FOLDERS = sorted(path.parent.name for path in GOLDEN.glob("*/checkpoint.pt"))

# What names and shapes show of every golden model that has it.
SHOWN = [
    "vocab_size",
    "model_dim",
    "num_layers",
    "ffn_dim",
    "use_hem",
    "pe_dim",
    "use_dpg",
    "use_uboo",
    "use_sparse",
    "fusion_method",
]


def golden(folder):
    return torch.load(GOLDEN / folder / "checkpoint.pt", weights_only=True)


@pytest.fixture
def changed(tmp_path):
    """Writes golden content, changed by a function or replaced by its result, and loads it."""

    def load(folder, change, **arguments):
        content = golden(folder)
        content = change(content) or content
        torch.save(content, tmp_path / "changed.pt")
        return load_torch(tmp_path / "changed.pt", **arguments)

    return load


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_bare_state_dict_shows_its_config(folder, changed):
    loaded = changed(folder, lambda content: content["model_state_dict"], num_heads=4)
    stated = load_torch(GOLDEN / folder / "checkpoint.pt")
    assert type(loaded.model) is type(stated.model)
    for field in SHOWN:
        if field == "ffn_dim" and stated.config.use_sparse:
            continue
        assert getattr(loaded.config, field) == getattr(stated.config, field), field
    assert loaded.metadata == {}
    if stated.config.use_dpg:
        assert loaded.config.dpg_rank == stated.config.dpg_rank
    if stated.config.use_sparse:
        assert loaded.config.num_experts == stated.config.num_experts


@pytest.mark.parametrize("entry", ["model_config", "config", "args"])
@pytest.mark.parametrize("section", [None, "model"])
@pytest.mark.parametrize("folder", ["base_hem_dpg", "base_sparse", "mmrec100m_concatenate"])
def test_the_config_may_lie_in_other_places(folder, section, entry, changed):
    def move(content):
        config = content.pop("metadata")["config"]
        config = config if section is None else {section: config}
        content[entry] = {**config, "learning_rate": 3e-4, "output": "runs/1", "seed": None}

    loaded = changed(folder, move)
    assert loaded.config == load_torch(GOLDEN / folder / "checkpoint.pt").config


def test_what_a_config_leaves_out_is_taken_from_the_shapes(changed):
    def remove(content):
        config = content["metadata"]["config"]
        for key in ("pe_dim", "dpg_rank", "use_hem", "ffn_dim", "vocab_size", "mem_dim"):
            del config[key]

    loaded = changed("base_hem_dpg", remove)
    assert loaded.config == load_torch(GOLDEN / "base_hem_dpg" / "checkpoint.pt").config


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "module.module."])
def test_wrappers_prefixes_are_removed(prefix, changed):
    def wrap(content):
        tensors = content["model_state_dict"]
        content["model_state_dict"] = {prefix + key: value for key, value in tensors.items()}

    assert changed("base_dpg", wrap).config.use_dpg


def test_a_block_that_was_compiled_alone_loads(changed):
    def wrap(content):
        tensors = content["model_state_dict"]
        content["model_state_dict"] = {
            key.replace("blocks.1.", "blocks.1._orig_mod."): tensor
            for key, tensor in tensors.items()
        }

    assert changed("base", wrap).config.num_layers == 2


def test_heads_must_be_given_where_nothing_states_them(changed):
    with pytest.raises(ConfigError, match="num_heads"):
        changed("base", lambda content: content["model_state_dict"])
    loaded = changed("base", lambda content: content["model_state_dict"], num_heads=2)
    assert loaded.config.num_heads == 2
    changed("fusion_concatenate", lambda content: content["model_state_dict"])


def setting(**values):
    return lambda content: content["metadata"]["config"].update(values)


@pytest.mark.parametrize(
    ("folder", "change", "arguments", "message"),
    [
        ("base", lambda c: None, {"num_heads": 8}, "num_heads is 4 in the file's config, not 8"),
        ("base", setting(num_heads=5), {}, "num_heads must divide model_dim"),
        ("base", setting(num_heads="4"), {}, "num_heads in the file's config is '4'"),
        ("base", setting(num_heads=True), {}, "num_heads in the file's config is True"),
        ("base", setting(mem_dim=64), {}, "mem_dim is 64"),
        ("base", setting(num_layers=10**9), {}, "num_layers is 1000000000"),
        ("base", setting(dropout=1.5), {}, "dropout must lie in"),
        (
            "base",
            lambda c: c["metadata"].update(model_class="GPT2"),
            {},
            "metadata.model_class is 'GPT2', not one of MMRecModel",
        ),
        (
            "base",
            lambda c: {
                key.replace("blocks.1", "blocks.3"): tensor
                for key, tensor in c["model_state_dict"].items()
            },
            {"num_heads": 4},
            "numbered 0, 3: not from 0 without gaps",
        ),
        ("base", lambda c: {"wte.weight": torch.zeros(2, 3)}, {}, "no model has tensors of these"),
        ("expert", lambda c: {"blocks.0.W_q.bias": torch.zeros(8)}, {}, "model_dim is neither"),
    ],
)
def test_impossible_configs_are_named(folder, change, arguments, message, changed):
    with pytest.raises(ConfigError, match=message) as caught:
        changed(folder, change, **arguments)
    assert "changed.pt: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "change", "contradictory"),
    [
        ("base", setting(ffn_dim=81), "ffn_dim is 81 in the config and 80 in the tensors"),
        ("base", setting(num_layers=3), "num_layers is 3 in the config and 2 in the tensors"),
        ("base", setting(use_hem=True), "use_hem is True in the config and False in the tensors"),
        ("base_hem", setting(pe_dim=5), "pe_dim is 5 in the config and 32 in the tensors"),
        ("base_dpg", setting(dpg_rank=8), "dpg_rank is 8 in the config and 16 in the tensors"),
        ("base_dpg", setting(use_dpg=False), "use_dpg is False in the config and True in the"),
        ("base_sparse", setting(num_experts=4), "num_experts is 4 in the config and 8 in the"),
        ("fusion_concatenate", setting(fused_dim=63), "fused_dim is 63 in the config and 64"),
        (
            "mmrec100m_concatenate",
            setting(fusion_method="weighted"),
            "fusion_method is weighted in the config and concatenate in the tensors",
        ),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_an_error(folder, change, contradictory, changed):
    with pytest.raises(MismatchError) as caught:
        changed(folder, change)
    (problem,) = caught.value.problems["contradictory"]
    assert contradictory in problem
    assert problem in str(caught.value)


def test_the_default_config_is_not_what_is_loaded():
    """The golden dimensions differ from every default, so that no test passes by a default."""
    config, default = load_torch(GOLDEN / "base_hem_dpg" / "checkpoint.pt").config, ModelConfig()
    same = {"lambda_P", "use_uboo", "use_sparse", "num_experts", "sparse_chunk_size"}
    same |= {"fusion_method", "fused_dim"}
    for field in vars(config).keys() - same:
        assert getattr(config, field) != getattr(default, field), field


def test_what_one_place_does_not_state_another_may(tmp_path):
    content = golden("base")
    config = content["metadata"].pop("config")
    heads = config.pop("num_heads")
    content |= {
        "model_config": {"name": "x", **config},
        "args": {"num_heads": heads, "dpg_rank": 0},
    }
    content["metadata"]["config"] = {}
    torch.save(content, tmp_path / "apart.pt")
    assert load_torch(tmp_path / "apart.pt").config.num_heads == heads


@pytest.mark.parametrize("of", ["scheduler_state_dict", "optimizer_state_dict"])
def test_the_step_of_a_file_that_does_not_state_it(of, tmp_path):
    content = torch.load(GOLDEN / "trajectory" / "checkpoint_step_12.pt", weights_only=True)
    del content["step"]
    content["epoch"], content["loss"] = 3, content.pop("avg_loss")
    content[of] = None
    torch.save(content, tmp_path / "tutorial.pt")
    loaded = load_torch(tmp_path / "tutorial.pt")
    assert (loaded.step, loaded.avg_loss) == (12, content["loss"])


def test_small_tensors_in_metadata_become_lists(tmp_path):
    content = golden("base")
    content["metadata"]["rng"] = torch.arange(5, dtype=torch.uint8)
    torch.save(content, tmp_path / "rng.pt")
    assert load_torch(tmp_path / "rng.pt").metadata["rng"] == [0, 1, 2, 3, 4]
