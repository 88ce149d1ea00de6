"""PyTorch twins for the tests of files, and training them as a user of torch would."""

import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

import bridge
from bridge.files.tensors import tensor_of
from bridge.twin import Memory, twin
from mmrec_jax import ModelConfig

Session = tuple[nn.Module, torch.optim.Optimizer, LRScheduler]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The models are so small that torch's threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def skeleton() -> Callable[..., nn.Module]:
    """(model_class, config, seed) -> a torch module with the original's parameters, all random."""

    def build(model_class: str, config: ModelConfig, seed: int = 0) -> nn.Module:
        module = twin(model_class, config)
        generator = torch.Generator().manual_seed(seed)
        for name, tensor in module.state_dict().items():
            if not name.endswith("powers"):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
        return module

    return build


@pytest.fixture(scope="session")
def unread() -> Callable[[Any], Any]:
    """torch's tensors, in containers, -> what the bridge has of a file that holds them."""

    def convert(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return tensor_of(value.detach().numpy().copy())
        if isinstance(value, dict):
            return {key: convert(item) for key, item in value.items()}
        return [convert(item) for item in value] if isinstance(value, list) else value

    return convert


@pytest.fixture(scope="session")
def resume_in_torch() -> Callable[..., Session]:
    """A file with training state -> the twin, AdamW and schedule (docs/model.md section 6.4).

    Where a function makes the schedule, its settings are not those of the file alone.
    """

    def resume(
        path: pathlib.Path,
        schedule_of: Callable[[torch.optim.Optimizer], LRScheduler] | None = None,
    ) -> Session:
        content = torch.load(path, weights_only=True)
        state = content["scheduler_state_dict"]
        module = twin(content["metadata"]["model_class"], bridge.load_torch(path).config)
        optimizer = torch.optim.AdamW(module.parameters())
        if schedule_of is None:
            parts = [
                LinearLR(optimizer, start_factor=0.1, total_iters=state["_milestones"][0]),
                CosineAnnealingLR(optimizer, T_max=state["_schedulers"][1]["T_max"]),
            ]
            schedule: LRScheduler = SequentialLR(optimizer, parts, milestones=state["_milestones"])
        else:
            schedule = schedule_of(optimizer)
        module.load_state_dict(content["model_state_dict"], strict=True)
        optimizer.load_state_dict(content["optimizer_state_dict"])
        schedule.load_state_dict(state)
        return module, optimizer, schedule

    return resume


@pytest.fixture(scope="session")
def train_twin() -> Callable[..., tuple[list[float], list[float]]]:
    """(module, optimizer, schedule, batches, memory) -> each step's loss and gradient norm.

    Every batch [B, T + 1] makes one optimizer step and starts from the same memory; the norm is
    that before clipping (docs/model.md sections 5.1 to 5.4).
    """

    def train(
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: LRScheduler,
        batches: Iterable[np.ndarray],
        memory: Memory | None = None,
    ) -> tuple[list[float], list[float]]:
        losses, norms = [], []
        for batch in batches:
            tokens = torch.as_tensor(batch).long()
            out = module(tokens[:, :-1], memory)
            loss = nn.functional.cross_entropy(out.logits.flatten(0, 1), tokens[:, 1:].flatten())
            loss = loss + out.auxiliary_loss
            loss.backward()
            norms.append(nn.utils.clip_grad_norm_(module.parameters(), 1.0).item())
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses, norms

    return train
