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
# # Train a tiny model in two minutes, and look inside
#
# A model of about 100,000 parameters learns from Python's own library. Then we ask four questions
# about it: How good is it? What do its layers remember? What does each layer add? What has its
# embedding learned?
#
# It takes one to two minutes on two cores, and needs no network. It writes into `data/` and
# `runs/`, below the folder that it runs in.

# %%
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import mmrec

# %% tags=["parameters"]
steps = 500

# %% [markdown]
# ## Training
#
# `mmrec.config` reads a config and overrides some of its settings. Each has a dotted name; a wrong
# one raises an error that says which was meant.

# %%
config = mmrec.config(
    "demo",
    {
        "data_dir": "data/python",
        "run_dir": "runs/tiny",
        "model.vocab_size": 1024,
        "optimizer.warmup_steps": steps // 10,
        "training.steps": steps,
        "training.batch_size": 32,
        "training.log_every": max(steps // 20, 1),
        "training.validate_every": max(steps // 5, 1),
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
# ## How good is it?
#
# A loss alone says little. So the run's report has n-grams beside it, which only count which tokens
# follow which. They are the dotted lines.

# %%
run = Path(lm.path)
records = [json.loads(line) for line in (run / "metrics.jsonl").open()]
report = json.loads((run / "report.json").read_text())

figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
points = [(record["step"], record["loss"]) for record in records if "loss" in record]
axes.plot(*zip(*points, strict=True), color="0.7", label="training")
for colour, domain in (("C0", "text"), ("C1", "code")):
    name = f"loss/{domain}"
    points = [(record["step"], record[name]) for record in records if name in record]
    axes.plot(*zip(*points, strict=True), "o-", color=colour, label=f"validation, {domain}")
    for other in ("bigram", "5-gram"):
        level = report["scores"][domain][other]["loss"]
        axes.axhline(level, color=colour, linestyle=":")
        axes.text(0, level, f"{other}, {domain}", va="bottom", fontsize=8)
axes.set(xlabel="optimizer step", ylabel="nats per token (lower is better)")
axes.legend()
plt.show()

# %% [markdown]
# So small a model, trained so briefly, loses to counting. It says nothing about the architecture;
# `docs/worth.md` compares larger ones with an LSTM, a GRU and a GPT.
#
# ## What do its layers remember?
#
# In each token, a channel of the state h keeps the share g, the **decay**. A channel with g = 0.5
# has lost half after one token; one with g = 0.9 after seven. Here is g for all channels, over the
# first tokens of a file of the library.

# %%
text = Path(json.__file__).read_text(encoding="utf-8")[:2000]
seen = lm.trace(text)

figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
bins = np.linspace(0, 1, 51)
for layer, values in zip(seen.layers, seen.decay, strict=True):
    axes.hist(values.ravel(), bins, histtype="step", density=True, label=f"layer {layer}")
axes.set(xlabel="decay g: the share of h that stays", ylabel="density, all tokens and channels")
axes.legend()
plt.show()

# %% [markdown]
# Most of it is short: these layers look a few tokens back. Here are the channels of one layer,
# token by token. Look for long horizontal stripes: channels that keep a value.

# %%
line = "for name in sorted(names):\n    print(name, len(name))\n"
lm.trace(line).plot("states", layer=1)
plt.show()

# %% [markdown]
# ## What does each layer add?
#
# The layers add to one stream of vectors, from the embedding to the head. So we can give the head
# what comes out of an earlier layer, and see how well it predicts already (the "logit lens").

# %%
ids = jnp.array([lm.tokenizer.end_of_text, *lm.tokenizer.encode(text)])
streams = {"embedding": lm.model.embedding(ids[None])[0]}
streams |= {f"layer {name}": values for name, values in zip(seen.layers, seen.outputs, strict=True)}
losses = {}
for name, values in streams.items():
    logits = lm.model.norm(jnp.asarray(values)) @ lm.model.head_kernel
    surprise = -jax.nn.log_softmax(logits)[jnp.arange(len(ids) - 1), ids[1:]]
    losses[name] = float(surprise.mean())

figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.bar(losses.keys(), losses.values())
axes.axhline(np.log(lm.config.vocab_size), color="0.3", linestyle=":")
axes.text(4.4, np.log(lm.config.vocab_size), "guessing", ha="right", va="bottom", fontsize=8)
axes.set(ylabel="nats per token (lower is better)")
plt.show()

# %% [markdown]
# The last bar is the model's own loss. The first ones can be worse than guessing: those layers were
# never asked to predict, only to prepare what the later ones need.
#
# ## What has its embedding learned?
#
# Tokens that can stand in each other's place should have similar vectors. The nearest ones, by the
# cosine of the angle:

# %%
table = np.asarray(lm.model.embedding.embedding[...])
table = table / np.linalg.norm(table, axis=1, keepdims=True)
for word in (" self", " if", ":\n", " the", "True", "1"):
    token = lm.tokenizer.encode(word)[-1]
    nearest = np.argsort(-table @ table[token])[1:6]
    print(f"{word!r:>8}:", ", ".join(repr(lm.tokenizer.decode([int(i)])) for i in nearest))
