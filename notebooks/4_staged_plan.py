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
# # The staged plan: base, experts, fusion
#
# The plan trains a **base** on text and code, copies it, trains one copy further on text and one
# on code (the **experts**), and joins both by a **fusion** with a gate. This notebook does it in
# small, and looks at what happened: what an expert changed, and where the gate goes, token by
# token.
#
# It takes two to three minutes on two cores, and needs no network. It writes into `data/` and
# `runs/`, below the folder that it runs in. `mmrec pipeline --config demo` runs the whole plan,
# with the control that it must be compared with.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import bridge
import mmrec

# %% tags=["parameters"]
steps = {"base": 250, "text": 50, "code": 50, "fusion": 80}

# %% [markdown]
# ## Four trainings
#
# Each stage finds the one before it in `run_dir`. The experts keep the base's embedding, so that
# both can be joined; the fusion trains its gate, projection and head, and leaves the experts alone.

# %%
# %%capture
models = {}
for stage, count in steps.items():
    settings = {
        "data_dir": "data/python",
        "run_dir": "runs/staged",
        "model.vocab_size": 1024,
        "optimizer.warmup_steps": count // 10,
        "training.steps": count,
        "training.batch_size": 32,
        "training.log_every": count,
        "training.validate_every": count,
        "training.checkpoint_every": count,
        "prompts": [],
    }
    config = mmrec.config("demo", settings, stage=stage)
    if not Path(config.data_dir).exists():
        mmrec.prepare(config)
    models[stage] = mmrec.train(config, stage, overwrite=True)

# %%
for model in models.values():
    print(model)

# %% [markdown]
# ## What has each stage gained?
#
# We score documents that no stage has trained on.


# %%
def held_out(domain, count=8, most=600):
    """The beginnings of the first documents of a domain's test split."""
    folder = Path(config.data_dir) / domain / "test"
    tokens, ends = np.load(folder / "tokens.npy"), np.load(folder / "ends.npy")
    starts = [0, *ends[: count - 1]]
    pieces = [tokens[a : min(b - 1, a + most)] for a, b in zip(starts, ends[:count], strict=True)]
    return [models["base"].tokenizer.decode(piece.tolist()) for piece in pieces]


documents = {domain: [t for t in held_out(domain) if t] for domain in ("text", "code")}
loss = {
    stage: {
        domain: float(np.concatenate([lm.score(text).losses for text in texts]).mean())
        for domain, texts in documents.items()
    }
    for stage, lm in models.items()
}

figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
names = {"text": "text expert", "code": "code expert", "fusion": "fusion"}
for place, (stage, values) in enumerate(loss.items()):
    gain = [loss["base"][domain] - values[domain] for domain in documents]
    if stage != "base":
        axes.bar(np.arange(2) + (place - 2) * 0.27, gain, 0.25, label=names[stage])
axes.axhline(0, color="black", linewidth=1)
axes.set_xticks([0, 1], [f"{domain} documents" for domain in documents])
axes.set(ylabel="gain over the base\n(nats per token, higher is better)")
axes.legend()
plt.show()
loss

# %% [markdown]
# Each expert gains in its own domain, and loses in the other. The fusion has the most parameters
# and was trained longest, so its gain proves nothing yet. In the project's measurements
# (`docs/worth.md`), a base that was simply trained further gained about as much as experts and
# fusion did, and a wider base gained more.
#
# ## What has an expert changed?
#
# The size of the change in each weight, for the size of the weight. Both experts began as the base,
# so at first all of this was zero.

# %%
base = bridge.variables(models["base"].model)
parts = {
    "recurrence gate": ("W_g", "kernel"),
    "decay": ("mdi", "W_gamma"),
    "z": ("W_z", "kernel"),
    "value": ("W_v", "kernel"),
    "feed-forward": ("ffn",),
}


def change(expert, layer, part):
    """The relative change of a part of a layer."""
    names = [n for n in base if n[:2] == ("blocks", layer) and n[2 : 2 + len(part)] == part]
    assert names, part
    difference = sum(np.sum((np.asarray(expert[n]) - np.asarray(base[n])) ** 2) for n in names)
    return np.sqrt(difference / sum(np.sum(np.asarray(base[n]) ** 2) for n in names))


layers = range(models["base"].config.num_layers)
figure, both = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", sharey=True)
changes = {}
for name in ("text", "code"):
    expert = bridge.variables(models[name].model)
    changes[name] = [[change(expert, layer, part) for layer in layers] for part in parts.values()]
most = np.max([*changes.values()])
for axes, (name, rows) in zip(both, changes.items(), strict=True):
    image = axes.imshow(rows, vmin=0, vmax=most, aspect="auto")
    axes.set_title(f"{name} expert", fontsize="medium")
    axes.set(xlabel="layer", xticks=list(layers))
both[0].set_yticks(range(len(parts)), parts)
figure.colorbar(image, ax=both, label="relative change")
plt.show()

# %% [markdown]
# The memory's attention is not in the picture, because it cannot learn here: the memory stays empty
# unless `training.chunk_size` is set.
#
# ## Where does the gate go?
#
# The fusion mixes the outputs of both experts, channel by channel: 1 takes the text expert, 0 the
# code expert. Here is a text that begins as prose and becomes code.

# %%
mixed = """The mean of some values is their sum, divided by their number.

def mean(values):
    return sum(values) / len(values)
"""
seen = models["fusion"].trace(mixed)
seen.plot("text_share")
plt.show()

# %% [markdown]
# Now the mean over channels, and below it how much better the text expert predicted the *next*
# token than the code expert did.

# %%
share = seen.text_share.mean(axis=1)
scores = {name: models[name].score(mixed) for name in ("text", "code")}
advantage = scores["code"].losses - scores["text"].losses

figure, (above, below) = plt.subplots(
    2, 1, figsize=(10, 5), layout="constrained", sharex=True, height_ratios=[1, 1.2]
)
above.plot(share, "o-")
above.axhline(0.5, color="black", linestyle=":")
above.set(ylabel="gate, mean of channels\n(1: text, 0: code)")
colours = np.where(advantage > 0, "C0", "C1")
below.bar(range(len(advantage)), advantage, color=colours)
below.axhline(0, color="black", linewidth=1)
below.set(ylabel="advantage of the text expert\n(nats, next token)")
names = [repr(token)[1:-1].replace(" ", "·") or "start" for token in seen.tokens]
below.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
below.set_xlabel("token that was read last (a dot is a space)")
related = np.corrcoef(share[:-1], advantage)[0, 1]
print(f"correlation of the gate with the text expert's advantage: {related:.2f}")

# %% [markdown]
# The gate goes towards the text expert in prose and towards the code expert in code. It does so by
# itself: nobody told it what is what. But it hardly follows the single token, as the correlation
# says. And read it with care: a projection and a head were trained with it, and they can undo what
# it does. What counts is the loss. The last picture is the gate on held-out documents:

# %%
shares = {
    domain: np.concatenate([models["fusion"].trace(text).text_share.mean(axis=1) for text in texts])
    for domain, texts in documents.items()
}
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
for domain, values in shares.items():
    axes.hist(values, 40, density=True, alpha=0.6, label=f"{domain} documents")
axes.axvline(0.5, color="black", linestyle=":")
axes.set(xlabel="gate, mean of channels (1: text expert, 0: code expert)", ylabel="density")
axes.legend()
plt.show()
{domain: round(float(values.mean()), 3) for domain, values in shares.items()}
