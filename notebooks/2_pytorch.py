# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # There and back: the same run in JAX and in PyTorch
#
# A checkpoint of this project is a `.pt` file in the original's format. This notebook
#
# 1. trains a small model in JAX,
# 2. opens its file in PyTorch and compares what both compute,
# 3. goes on training in PyTorch, with AdamW's moments and the learning-rate schedule,
# 4. takes the result back to JAX, and ends the run there.
#
# It takes one to two minutes on two cores, and needs no network. It writes into `data/` and
# `runs/`, below the folder that it runs in.

# %%
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import torch

import bridge
import mmrec
from bridge.twin import twin

# %% tags=["parameters"]
steps, there, back = 100, 50, 65

# %% [markdown]
# ## In JAX
#
# The run has 100 steps. It saves a checkpoint after 50 of them, from which PyTorch will go on; and
# it runs to its end, so that we have something to compare with.

# %%
settings = {
    "data_dir": "data/python",
    "run_dir": "runs/in_jax",
    "model.vocab_size": 1024,
    "optimizer.warmup_steps": there // 4,
    "training.steps": steps,
    "training.batch_size": 16,
    "training.log_every": 1,
    "training.validate_every": steps,
    "training.checkpoint_every": there,
    "prompts": [],
}
config = mmrec.config("demo", settings, stage="base")

# %%
# %%capture
if not Path(config.data_dir).exists():
    mmrec.prepare(config)
in_jax = mmrec.train(config, overwrite=True)

# %%
file = Path(in_jax.path) / f"base_model_step_{there}.pt"
loaded = bridge.load_torch(file)
loaded

# %% [markdown]
# ## In PyTorch
#
# The file is an ordinary one: `torch.load` reads it, and `twin` builds the model whose parameters
# have these names. `strict=True` would refuse a name too many or too few.

# %%
content = torch.load(file, weights_only=True)
module = twin("MMRecModel", loaded.config)
module.load_state_dict(content["model_state_dict"], strict=True)
print(*list(content), sep=", ")

# %% [markdown]
# Both read the same 200 tokens. How much do their logits differ?

# %%
tokens = np.load(f"{config.data_dir}/mixed/validation/tokens.npy")[:200].astype(np.int64)
of_jax = np.asarray(loaded.model(jnp.asarray(tokens[None])).logits[0])
with torch.no_grad():
    of_torch = module(torch.from_numpy(tokens)[None])[0][0].numpy()

figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
axes.semilogy(np.abs(of_jax).max(axis=1), label="largest logit")
axes.semilogy(np.abs(of_jax - of_torch).max(axis=1), label="largest difference")
axes.set(xlabel="token", ylabel="absolute value", ylim=(1e-8, None))
axes.legend(loc="center right")
print(f"largest difference of all: {np.abs(of_jax - of_torch).max():.1g}")

# %% [markdown]
# The differences are those of rounding in float32. They do not grow along the text.
#
# ## Further training in PyTorch
#
# AdamW and the schedule are torch's own, and take their state from the file. So the rate and the
# moments go on where they were.

# %%
settings_of = content["optimizer_state_dict"]["param_groups"][0]
optimizer = torch.optim.AdamW(module.parameters(), lr=settings_of["initial_lr"])
warmup = config.optimizer.warmup_steps
schedule = torch.optim.lr_scheduler.SequentialLR(
    optimizer,
    [
        torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=warmup),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps - warmup),
    ],
    milestones=[warmup],
)
optimizer.load_state_dict(content["optimizer_state_dict"])
schedule.load_state_dict(content["scheduler_state_dict"])

training = np.load(f"{config.data_dir}/mixed/train/tokens.npy", mmap_mode="r")
length = config.training.sequence_length
random = np.random.default_rng(0)
torch_losses = []
for _ in range(there, back):
    starts = random.integers(len(training) - length, size=config.training.batch_size)
    batch = np.stack([training[start : start + length + 1] for start in starts])
    batch = torch.from_numpy(batch.astype(np.int64))
    logits = module(batch[:, :-1])[0]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), config.optimizer.max_grad_norm)
    optimizer.step()
    schedule.step()
    torch_losses.append(loss.item())
print(
    f"steps {there + 1} to {back} in PyTorch: loss {torch_losses[0]:.3f} to {torch_losses[-1]:.3f}"
)

# %% [markdown]
# Saved with the same keys, it is a checkpoint again.

# %%
saved = Path("runs/in_torch.pt")
content |= {
    "model_state_dict": module.state_dict(),
    "optimizer_state_dict": optimizer.state_dict(),
    "scheduler_state_dict": schedule.state_dict(),
    "step": back,
}
torch.save(content, saved)

# %% [markdown]
# ## Back in JAX
#
# The bridge reads the file, and writes the state that a run resumes from. `python -m bridge
# from-torch` does the same on a command line.

# %%
returned = bridge.load_torch(saved)
folder = bridge.stage_folder("runs/returned", "base")
shutil.rmtree(folder, ignore_errors=True)
state = bridge.state_folder(folder, back)
bridge.save_orbax(state, returned.model, **returned.training_state())
bridge.compare(returned, bridge.load_orbax(state))

# %% [markdown]
# Nothing was lost: weights and moments are equal to the last bit. Now the run ends in JAX.

# %%
# %%capture
settings |= {"run_dir": "runs/returned"}
there_and_back = mmrec.train(mmrec.config("demo", settings, stage="base"), resume=True)


# %%
def losses(run):
    """The training losses of a run, by step."""
    records = map(json.loads, (Path(run) / "metrics.jsonl").open())
    return {record["step"]: record["loss"] for record in records if "loss" in record}


figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
axes.plot(*zip(*losses(in_jax.path).items(), strict=True), color="0.7", label="JAX alone")
axes.plot(range(there + 1, back + 1), torch_losses, color="C1", label="PyTorch")
axes.plot(*zip(*losses(there_and_back.path).items(), strict=True), color="C0", label="back in JAX")
axes.set(xlabel="optimizer step", ylabel="nats per token (lower is better)")
axes.legend()
plt.show()

# %% [markdown]
# In the middle the curves differ, since PyTorch drew other batches. Nothing jumps where the
# framework changes. At the end the two runs see the same batches again, and their curves nearly
# coincide. The two results are about as good as each other:

# %%
text = Path(json.__file__).read_text(encoding="utf-8")[:2000]
print("JAX alone:     ", in_jax.score(text))
print("there and back:", there_and_back.score(text))
