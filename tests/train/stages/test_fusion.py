"""Which experts can be joined, and when that is said."""

import dataclasses

import pytest
import yaml
from flax import nnx
from helpers.small_models import SMALL

import bridge
from mmrec_jax import ExpertModule, MMRecModel
from train.expert import warn_of_other_depth
from train.settings.config import Config, TrainingConfig
from train.stages.fusion import FusionStage
from train.system.errors import UserError


def deep(layers):
    return dataclasses.replace(SMALL, num_layers=layers)


@pytest.fixture
def fusion(tmp_path):
    """A fusion stage of two experts of the given depths, and a config of another."""

    def stage(text, code, wanted):
        files = {}
        for name, layers in (("text", text), ("code", code)):
            files[f"{name}_expert"] = str(tmp_path / f"{name}.pt")
            expert = ExpertModule(deep(layers), rngs=nnx.Rngs(0))
            bridge.save_torch(files[f"{name}_expert"], expert, metadata={"domain": name})
        base = str(tmp_path / "base.pt")
        bridge.save_torch(base, MMRecModel(SMALL, rngs=nnx.Rngs(0)))
        config = Config(data_dir="none", run_dir="none", base_model=base, model=deep(wanted))
        return FusionStage(
            dataclasses.replace(config, fusion=dataclasses.replace(config.fusion, **files))
        )

    return stage


@pytest.mark.parametrize(
    ("text", "code", "wanted", "message"),
    [
        (1, 2, 2, "the text expert has 1 and the code expert 2: .* train one of them again with"),
        (1, 2, 1, "the text expert has 1 and the code expert 2"),
        (1, 1, 2, "model.num_layers is 1 in both experts and 2 in the config: set it to 1"),
    ],
)
def test_experts_of_another_depth_are_told_what_to_do(fusion, text, code, wanted, message):
    with pytest.raises(UserError, match=message) as raised:
        fusion(text, code, wanted).start()
    assert "import" not in str(raised.value)


@pytest.mark.parametrize(("layers", "warned"), [(2, False), (3, True)])
def test_another_depth_is_said_before_the_second_expert_is_trained(
    layers, warned, tmp_path, capsys
):
    (tmp_path / "checkpoints_text").mkdir()
    written = {"model": {"num_layers": layers}}
    (tmp_path / "checkpoints_text" / "config.yaml").write_text(yaml.safe_dump(written))
    code = TrainingConfig(domain="code")
    warn_of_other_depth(Config(data_dir="a", run_dir=str(tmp_path), model=SMALL, training=code))
    assert ("warning: model.num_layers is 2 here and 3 in" in capsys.readouterr().out) == warned
