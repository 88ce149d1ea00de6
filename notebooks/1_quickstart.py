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
# # Quickstart: a model, its recurrence and its memory
#
# MM-Rec reads a text token by token. Two things carry what it has read:
#
# - the **recurrent state** h, a vector per layer, which changes with every token;
# - the **memory**, a table of slots per layer, which is written only every `chunk_size` tokens.
#
# This notebook loads a model, lets it write, and shows both of them over a text. It takes one to
# two minutes on two cores, and needs no network. It writes into `data/` and `runs/`, below the
# folder that it runs in.

# %%
import dataclasses
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import mmrec

# %% tags=["parameters"]
steps = 300

# %% [markdown]
# ## A model
#
# If you have one, `lm = mmrec.load("runs/demo")` is all. Here we train a small one, on Python's own
# library and its documentation. Its settings are those of the packaged config `demo`, with fewer
# steps. `chunk_size` makes it write its memory every 32 tokens; by default it never does.

# %%
config = mmrec.config(
    "demo",
    {
        "data_dir": "data/python",
        "run_dir": "runs/quickstart",
        "model.vocab_size": 1024,
        "optimizer.warmup_steps": steps // 10,
        "training.steps": steps,
        "training.batch_size": 32,
        "training.chunk_size": 32,
        "training.log_every": max(steps // 5, 1),
        "training.validate_every": steps,
        "prompts": [],
    },
    stage="base",
)

# %%
# %%capture
if not Path(config.data_dir).exists():
    mmrec.prepare(config)

# %%
lm = mmrec.train(config, overwrite=True)
lm

# %% [markdown]
# The table is sobering, and that is its purpose: after less than a minute of training, the model
# is worse than a bigram, which only counts which token follows which. If a warning says that |h|
# grows, it is about the recurrent state: it can grow without bound where it decays too little, and
# a run that diverges stops.
#
# ## It writes
#
# The text comes piece by piece, while it is sampled.

# %%
for piece in lm.generate("def ", length=80, seed=1):
    print(piece, end="")

# %% [markdown]
# It has learned what code looks like, and not yet what it means.
#
# ## It reads
#
# `score` says how well the model predicts a text. High bars are tokens that surprised it.

# %%
text = """def mean(values):
    total = 0
    for value in values:
        total += value
    return total / len(values)
"""
score = lm.score(text)
score.plot()
plt.show()
score

# %% [markdown]
# ## The recurrence
#
# `trace` gives what every layer computes at every token. First the size of the state h. It starts
# from zero at the dotted lines, where a chunk ends and the memory is written.

# %%
seen = lm.trace(text)


def mark_chunks(axes, length):
    """Dotted lines where a new chunk begins."""
    for start in range(lm.chunk_size, length, lm.chunk_size):
        axes.axvline(start - 0.5, color="black", linestyle=":")


mark_chunks(seen.plot("states"), len(seen.tokens))

# %% [markdown]
# The **decay** g says how much of h stays. It is computed anew for each token and channel.

# %%
mark_chunks(seen.plot("decay"), len(seen.tokens))
plt.show()
seen

# %% [markdown]
# How long does a token matter, then? We read the text twice, with another first word, and see how
# much each layer's output changes at all later tokens.

# %%
ids = lm.tokenizer.encode(text)
other = lm.trace(text.replace("def", "for", 1))
assert len(other.tokens) == len(seen.tokens), "the two texts must have equally many tokens"


def relative_change(a, b):
    """How much vectors differ, for their size [L, T]."""
    return np.linalg.norm(a - b, axis=-1) / np.linalg.norm(a, axis=-1)


change = relative_change(seen.outputs, other.outputs)
figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
for layer, row in zip(seen.layers, change, strict=True):
    axes.semilogy(np.where(row > 0, row, np.nan), label=f"layer {layer}")
mark_chunks(axes, len(seen.tokens))
axes.set(xlabel="token", ylabel="relative change of the output", title="after another first word")
axes.legend()
plt.show()

# %% [markdown]
# Within the first chunk, the change fades by a factor of ten every few tokens: h forgets quickly.
# At the dotted line h starts from zero, so whatever is left has come through the memory.
#
# ## The memory
#
# A picture of it takes three lines:
#
# ```python
# import mmrec
# lm = mmrec.load("runs/quickstart")
# lm.trace(text).plot("memory_reads", layer=1)
# ```

# %%
axes = seen.plot("memory_reads", layer=1)
mark_chunks(axes, len(seen.tokens))

# %% [markdown]
# In the first chunk the memory is still empty: what is read there is a bias. After that, every
# column of a chunk is the same. That is no accident. What a layer writes is the **mean of its
# outputs** over the chunk, into all 1,024 slots alike. So attention has nothing to choose from, and
# every token of the next chunk reads the same vector, whatever it asks for:

# %%
chunk = seen.memory_reads[:, lm.chunk_size : 2 * lm.chunk_size]
print(f"largest difference between two tokens of a chunk: {np.ptp(chunk, axis=1).max():.1g}")

# %% [markdown]
# ## Does it remember?
#
# A model that remembers would find a text easy the second time. Here is the same text twice, so
# that the second copy begins in a later chunk. We read it as the model was trained, and once more
# in one piece: then the memory stays empty, but h is never set to zero.

# %%
readers = {
    "memory, every 32 tokens": lm,
    "no memory, one piece": dataclasses.replace(lm, chunk_size=None),
}
count = len(ids)
losses = {name: reader.score(text + text).losses for name, reader in readers.items()}
for name, values in losses.items():
    print(f"{name}: {values[:count].mean():.2f} nats per token, then {values[count:].mean():.2f}")

# %%
figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
for place, (name, values) in enumerate(losses.items()):
    pair = [values[:count].mean(), values[count : 2 * count].mean()]
    axes.bar(np.arange(2) + (place - 0.5) * 0.35, pair, 0.33, label=name)
axes.set_xticks([0, 1], ["first copy", "second copy"])
axes.set(ylabel="nats per token (lower is better)", ylim=(0, None))
axes.legend(loc="lower right")
plt.show()

# %% [markdown]
# The second copy is hardly easier than the first. A model that recalled the first copy would bring
# the second close to zero. This is not for want of training alone: in the project's measurements
# (`docs/worth.md`), models that were trained longer recalled nothing of a text that repeats itself
# after 512 tokens, which a GPT of the same size learned to repeat. Writing the memory made
# predictions a little worse. The memory is unproven. So leave `chunk_size` unset, unless your
# machine has too little RAM.
#
# Next: `2_pytorch` moves a model to PyTorch and back, `3_look_inside` looks into the layers, and
# `4_staged_plan` trains experts and joins them.
