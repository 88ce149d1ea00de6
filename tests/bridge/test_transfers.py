"""Every array goes to the device once when it is loaded, and comes back once when it is saved."""

import jax
import pytest
from helpers.paths import GOLDEN
from helpers.transfers import counted

import bridge
from bridge.weights import variables

FILE = GOLDEN / "trajectory" / "checkpoint_step_12.pt"


def shapes(loaded):
    moments = loaded.optimizer_state
    trees = (variables(loaded.model), moments.exp_avg, moments.exp_avg_sq)
    return sorted(array.shape for tree in trees for array in tree.values())


@pytest.fixture(scope="module")
def loaded():
    return bridge.load(FILE)


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors", "12"])
def test_loading_sends_every_array_once(name, loaded, tmp_path):
    path = tmp_path / name
    if name == "12":
        bridge.save_orbax(path, loaded.model, **loaded.training_state())
    else:
        bridge.save_file(path, loaded)
    # What JAX would send unasked is an error.
    with counted() as transfers, jax.transfer_guard_host_to_device("disallow"):
        again = bridge.load(path)
    assert sorted(transfers.sent) == shapes(again)
    assert transfers.fetched == []


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_saving_a_file_fetches_every_array_once(name, loaded, tmp_path):
    with counted() as transfers:
        bridge.save_file(tmp_path / name, loaded)
    assert sorted(transfers.fetched) == shapes(loaded)
    assert transfers.sent == []
