"""The PyTorch twin against the original's own numbers, and the JAX models against the twin."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from helpers.paths import GOLDEN
from helpers.small_models import SMALL

import bridge
from bridge.config.metadata import to_checkpoint
from bridge.keys import MODEL_CLASSES, entries, named_parameters
from bridge.twin import TWINS, twin
from bridge.weights import variables
from mmrec_jax import LongTermMemory, ModelConfig

TRAJECTORY = GOLDEN / "trajectory"
TOLERANCE = 1e-5
INPUTS = ("x", "text_output", "code_output")
# Every configuration is compiled for one call: a third of the time with these.
QUICK_TO_COMPILE = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}

VARIANTS = {
    "plain": {},
    "hem": {"use_hem": True},
    "dpg": {"use_dpg": True},
    "hem_dpg": {"use_hem": True, "use_dpg": True},
    "sparse": {"use_sparse": True},
    "uboo": {"use_uboo": True},
    "uboo_dpg": {"use_uboo": True, "use_dpg": True},
    "weighted": {"fusion_method": "weighted"},
}
CONFIG = dataclasses.replace(SMALL, pe_dim=7, dpg_rank=5, num_experts=4, sparse_chunk_size=4)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def assert_close_in_norm(found, expected):
    """By name, the norm of the difference over the norm; where one is zero, both are."""
    assert found.keys() == expected.keys()
    wrong = {}
    for name, values in expected.items():
        difference, norm = np.linalg.norm(found[name] - values), np.linalg.norm(values)
        if not difference <= TOLERANCE * norm:
            wrong[name] = difference / norm
    assert not wrong


def gradients(module):
    return {name: p.grad.numpy() for name, p in module.named_parameters() if p.grad is not None}


def untrained(model_class, config):
    names = set(config.untrained_modules)
    table = named_parameters(entries(model_class, config))
    return {entry.key for entry in table if names & set(entry.path)}


def within(bound, tensor):
    largest = float(tensor.detach().abs().max())
    return 0.8 * bound < largest <= bound


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model_class", MODEL_CLASSES)
def test_state_dict_is_the_key_tables(model_class, variant):
    config = dataclasses.replace(CONFIG, **VARIANTS[variant])
    module, table = twin(model_class, config), entries(model_class, config)
    assert [(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()] == [
        (entry.key, entry.shape) for entry in table
    ]
    for entry, tensor in zip(table, module.state_dict().values(), strict=True):
        assert tensor.dtype == (torch.int64 if entry.kind == "constant" else torch.float32)
    assert [name for name, _ in module.named_parameters()] == [
        entry.key for entry in named_parameters(table)
    ]
    if model_class == "MMRecModel":
        assert module.lm_head.weight is module.embedding.weight
    assert list(TWINS) == list(MODEL_CLASSES)


def test_initial_values():
    config = dataclasses.replace(
        CONFIG, vocab_size=200, use_hem=True, use_sparse=True, num_experts=16
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module, both = twin("MMRecModel", config), twin("MMRec100M", config)
    block, dim = module.blocks[0], config.model_dim
    assert within(dim**-0.5, module.embedding.weight)
    assert within((2 * dim) ** -0.5, both.lm_head.weight)
    assert both.embedding.weight.std().item() == pytest.approx(1, rel=0.1)
    widths = [dim, dim, dim, dim, 7, dim]
    for part, width in zip(torch.split(block.W_fused.weight, widths), widths, strict=True):
        assert within((6 / (dim + width)) ** 0.5, part)
    assert not block.W_fused.bias.any()
    for layer, inputs in ((block.W_g, dim), (block.mdi.W_g, 2 * dim), (block.mdi.W_gamma[2], 3)):
        assert within(inputs**-0.5, layer.weight) and within(inputs**-0.5, layer.bias)
    assert (block.norm1.weight == 1).all() and (both.final_norm.weight == 1).all()
    assert block.ffn.expert_weights.std().item() == pytest.approx(0.02, rel=0.1)
    assert block.ffn.router.hyperplanes.std().item() == pytest.approx(1, rel=0.3)
    assert block.ffn.router.powers.tolist() == [1, 2, 4, 8]


@pytest.mark.parametrize("variant", ["plain", "sparse"])
def test_dropout_covers_the_branches_while_training_alone(variant):
    config = dataclasses.replace(CONFIG, **VARIANTS[variant], dropout=0.5)
    module, without = (
        twin("MMRecModel", each) for each in (config, dataclasses.replace(config, dropout=0.0))
    )
    without.load_state_dict(module.state_dict())
    ids = torch.arange(14).reshape(2, 7)
    assert torch.equal(module.eval()(ids).logits, without(ids).logits)
    assert not torch.equal(module.train()(ids).logits, module(ids).logits)
    dropouts = [part for part in module.modules() if isinstance(part, torch.nn.Dropout)]
    assert {part.p for part in dropouts} == {0.5}
    for part in dropouts:
        part.p = 1.0
    only_residual = module.lm_head(module.norm(module.embedding(ids)))
    assert torch.equal(module(ids).logits, only_residual)


def test_arguments_that_do_not_fit():
    ids = torch.zeros(2, 3, dtype=torch.int64)
    one = [(torch.zeros(16, 12), torch.zeros(16, 12))]
    model, both = twin("MMRecModel", CONFIG), twin("MMRec100M", CONFIG)
    with pytest.raises(ValueError, match="chunk_size must be at least 1"):
        model(ids, chunk_size=0)
    with pytest.raises(ValueError, match="1 memories for 2 layers"):
        model(ids, one)
    with pytest.raises(ValueError, match="not 'base'"):
        both(ids, expert_type="base")
    with pytest.raises(ValueError, match="not base"):
        both(ids, {"base": one})
    with pytest.raises(ValueError, match="2 \\* model_dim = 24, not 7"):
        twin("MMRec100M", dataclasses.replace(CONFIG, fused_dim=7))


def original(golden, folder):
    """A twin with the folder's weights, and the folder's arrays."""
    data = golden(folder)
    content = torch.load(GOLDEN / folder / "checkpoint.pt", weights_only=True)
    module = twin(content["metadata"]["model_class"], data.checkpoint.config)
    module.load_state_dict(content["model_state_dict"], strict=True)
    return module, data.arrays


def golden_memory(arrays, prefix=""):
    return [
        LongTermMemory(*(torch.tensor(arrays[f"{prefix}long_term.{i}.{name}"]) for name in "kv"))
        for i in range(2)
    ]


def cross_entropy(logits, labels):
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(labels).flatten())


def assert_golden_gradients(module, arrays, **inputs):
    found = gradients(module) | {name: tensor.grad.numpy() for name, tensor in inputs.items()}
    expected = {k.removeprefix("grad."): v for k, v in arrays.items() if k.startswith("grad.")}
    assert_close_in_norm(found, expected)


@pytest.mark.parametrize(
    "folder",
    [
        "base",
        "base_chunked",
        "base_dpg",
        "base_hem",
        "base_hem_dpg",
        "base_sparse",
        "base_uboo",
    ],
)
def test_golden_model(golden, folder):
    module, arrays = original(golden, folder)
    chunk_size = int(arrays["chunk_size"]) if "chunk_size" in arrays else None
    ids = torch.tensor(arrays["input_ids"])
    out = module(ids, golden_memory(arrays), chunk_size=chunk_size)
    loss = cross_entropy(out.logits, arrays["labels"]) + out.auxiliary_loss
    loss.backward()
    assert_close(out.logits.detach(), arrays["logits"])
    assert_close(loss.detach(), arrays["loss"])
    assert_close(out.auxiliary_loss.detach(), arrays.get("auxiliary_loss", 0))
    for i, memory in enumerate(out.memory):
        for name, slots in zip("kv", memory, strict=True):
            assert slots.shape == (2, 1024, 32) and not slots.requires_grad
            expected = arrays.get(f"long_term_after.{i}.{name}")
            if expected is not None:
                assert_close(slots, np.broadcast_to(expected[:, None], slots.shape))
    assert_golden_gradients(module, arrays)


def test_golden_expert(golden):
    module, arrays = original(golden, "expert")
    x = torch.tensor(arrays["x"], requires_grad=True)
    y, _ = module(x, golden_memory(arrays))
    (y * torch.tensor(arrays["cotangent"])).sum().backward()
    assert_close(y.detach(), arrays["output"])
    assert_golden_gradients(module, arrays, x=x)


def test_golden_fusion(golden):
    module, arrays = original(golden, "fusion_concatenate")
    names = ("text_output", "code_output")
    inputs = {name: torch.tensor(arrays[name], requires_grad=True) for name in names}
    output = module(**inputs)
    (output * torch.tensor(arrays["cotangent"])).sum().backward()
    assert_close(output.detach(), arrays["output"])
    assert_golden_gradients(module, arrays, **inputs)


def test_golden_mmrec100m(golden):
    module, arrays = original(golden, "mmrec100m_concatenate")
    ids = torch.tensor(arrays["input_ids"])
    memory = {name: golden_memory(arrays, f"{name}.") for name in ("text", "code")}
    out = module(ids, memory)
    loss = cross_entropy(out.logits, arrays["labels"])
    loss.backward()
    assert_close(out.logits.detach(), arrays["logits.both"])
    assert_close(loss.detach(), arrays["loss"])
    assert_golden_gradients(module, arrays)
    for expert_type in ("text", "code"):
        out = module(ids, memory, expert_type=expert_type)
        assert_close(out.logits.detach(), arrays[f"logits.{expert_type}"])
        assert list(out.memory) == [expert_type]


@pytest.mark.parametrize(("first", "last"), [(0, 24), (12, 24)])
def test_golden_trajectory(first, last, resume_in_torch, train_twin):
    arrays = np.load(TRAJECTORY / "io.npz")
    session = resume_in_torch(TRAJECTORY / f"checkpoint_step_{first}.pt")
    losses, norms = train_twin(*session, arrays["batches"][first:last], golden_memory(arrays))
    assert_close(losses, arrays["losses"][first:last])
    assert_close(norms, arrays["grad_norms"][first:last])
    content = torch.load(TRAJECTORY / f"checkpoint_step_{last}.pt", weights_only=True)
    module, optimizer, schedule = session
    assert_close_in_norm(
        {name: tensor.numpy() for name, tensor in module.state_dict().items()},
        {name: tensor.numpy() for name, tensor in content["model_state_dict"].items()},
    )
    assert schedule.state_dict() == content["scheduler_state_dict"]
    assert optimizer.state_dict()["state"].keys() == content["optimizer_state_dict"]["state"].keys()


def test_an_export_trains_on_in_torch_as_the_originals_file_does(
    resume_in_torch, train_twin, tmp_path
):
    arrays = np.load(TRAJECTORY / "io.npz")
    path = TRAJECTORY / "checkpoint_step_24.pt"
    loaded = bridge.load_torch(path)
    bridge.save_torch(
        tmp_path / "export.pt",
        loaded.model,
        optimizer_state=loaded.optimizer_state,
        scheduler_state=loaded.scheduler_state,
    )
    sessions = [resume_in_torch(path) for path in (path, tmp_path / "export.pt")]
    batches, memory = arrays["batches"][:12], golden_memory(arrays)
    expected, found = (train_twin(*session, batches, memory) for session in sessions)
    assert found == expected
    before, (module, optimizer, _), (exported, _, _) = loaded.model, *sessions
    assert np.any(module.norm.weight.detach().numpy() != before.norm.scale[...])
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, exported.state_dict()[name]), name
    after = dataclasses.replace(loaded.scheduler_state, step=36)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(after.learning_rate(), rel=1e-6)


@pytest.mark.parametrize("variant", ["dpg", "hem_dpg", "uboo_dpg", "sparse"])
def test_adamw_keeps_no_state_for_what_has_no_gradient(variant, train_twin):
    config = dataclasses.replace(CONFIG, **VARIANTS[variant])
    module = twin("MMRecModel", config)
    optimizer = torch.optim.AdamW(module.parameters())
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer)
    train_twin(module, optimizer, schedule, [np.arange(18).reshape(2, 9)])
    names = [name for name, _ in module.named_parameters()]
    stateless = set(range(len(names))) - set(optimizer.state_dict()["state"])
    assert {names[index] for index in stateless} == untrained("MMRecModel", config)


def mmrec100m(fusion, expert_type):
    return "MMRec100M", {"fusion_method": fusion}, {"expert_type": expert_type}


CASES = {
    **{
        name: ("MMRecModel", changes, {})
        for name, changes in VARIANTS.items()
        if name != "weighted"
    },
    "sparse_threshold": ("MMRecModel", {"use_sparse": True}, {"router_threshold": 1.5}),
    "chunked": ("MMRecModel", {"use_uboo": True}, {"chunk_size": 4}),
    "no_memory": ("MMRecModel", {}, {"memory": None}),
    "expert": ("ExpertModule", {}, {}),
    "fusion_concatenate": ("FusionLayer", {}, {}),
    "fusion_weighted": ("FusionLayer", {"fusion_method": "weighted"}, {}),
    **{
        f"mmrec100m_{fusion}_{expert_type}": mmrec100m(fusion, expert_type)
        for fusion in ("concatenate", "weighted")
        for expert_type in (None, "text", "code")
    },
}


def random_config(rng, model_class, changes):
    """Dimensions that all differ, so that none can stand for another."""
    heads = int(rng.integers(2, 5))
    dim = heads * int(rng.integers(4, 7))
    others = [n for n in range(5, 60) if n not in (dim, 2 * dim, dim // 4)]
    vocab, ffn, pe, rank, fused = (int(n) for n in rng.choice(others, 5, replace=False))
    return ModelConfig(
        vocab_size=vocab,
        model_dim=dim,
        num_layers=2,
        num_heads=heads,
        ffn_dim=ffn,
        dropout=0.0,
        pe_dim=pe,
        dpg_rank=rank,
        lambda_P=float(rng.uniform(0.1, 2)),
        num_experts=2 ** int(rng.integers(2, 4)),
        sparse_chunk_size=int(rng.integers(2, 5)),
        fused_dim=fused if model_class == "FusionLayer" else None,
        **changes,
    )


def random_inputs(rng, model_class, config, shared):
    """The arguments of a model's call, in numpy; `shared` leaves the batch out of the memory."""
    batch, tokens = int(rng.integers(2, 4)), int(rng.integers(5, 12))

    def normal(*shape, scale=1.0):
        return (scale * rng.normal(size=shape)).astype(np.float32)

    def memory():
        shape = (16 * int(rng.integers(2, 6)), config.model_dim)
        shape = shape if shared else (batch, *shape)
        return [LongTermMemory(*(normal(*shape, scale=2.0) for _ in "kv")) for _ in range(2)]

    shape = (batch, tokens, config.model_dim)
    if model_class == "FusionLayer":
        return {"text_output": normal(*shape), "code_output": normal(*shape)}
    if model_class == "ExpertModule":
        return {"x": normal(*shape), "memory": memory()}
    ids = rng.integers(0, config.vocab_size, (batch, tokens)).astype(np.int32)
    if model_class == "MMRec100M":
        return {"input_ids": ids, "memory": {"text": memory(), "code": memory()}}
    return {"input_ids": ids, "memory": memory()}


def perturbed_twin(model_class, config, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = twin(model_class, config)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
    return module


def in_jax(model_class, config, module, tmp_path):
    """The JAX model of a twin's weights; a file is the bridge's one stable entrance."""
    metadata = {
        "model_class": model_class,
        "config": to_checkpoint(model_class, config, {}),
    }
    content = {"model_state_dict": module.state_dict(), "metadata": metadata}
    torch.save(content, tmp_path / "twin.pt")
    return bridge.load_torch(tmp_path / "twin.pt").model


def parts(out):
    """Output, memory and auxiliary loss of any of the models."""
    if hasattr(out, "logits"):
        return out
    return (*out, 0.0) if isinstance(out, tuple) else (out, [], 0.0)


def run_twin(module, inputs, options, cotangent):
    arguments = jax.tree.map(torch.tensor, inputs)
    differentiated = {name: arguments[name].requires_grad_() for name in INPUTS if name in inputs}
    output, memory, auxiliary_loss = parts(module(**arguments, **options))
    ((output * torch.tensor(cotangent(output.shape))).mean() + auxiliary_loss).backward()
    found = gradients(module) | {name: x.grad.numpy() for name, x in differentiated.items()}
    return jax.tree.map(lambda x: np.asarray(x.detach()), (output, memory)), found


def run_jax(model, inputs, options, cotangent):
    graphdef, params, buffers = nnx.split(model, nnx.Param, ...)
    differentiated = {name: inputs[name] for name in INPUTS if name in inputs}

    @functools.partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
    def run(params, differentiated):
        def objective(params, differentiated):
            merged = nnx.merge(graphdef, params, buffers)
            output, memory, auxiliary_loss = parts(merged(**inputs | differentiated, **options))
            loss = jnp.mean(output * cotangent(output.shape)) + auxiliary_loss
            return loss, (output, memory)

        return jax.grad(objective, argnums=(0, 1), has_aux=True)(params, differentiated)

    (by_path, found), results = run(params, differentiated)
    arrays = variables(nnx.merge(graphdef, by_path, buffers))
    for entry in named_parameters(entries(type(model).__name__, model.config)):
        array = arrays[entry.path]
        found[entry.key] = np.asarray(array).T if entry.transpose else np.asarray(array)
    return jax.tree.map(np.asarray, results), found


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]
)
@pytest.mark.parametrize("case", CASES)
def test_jax_agrees(case, seed, tmp_path):
    model_class, changes, options = CASES[case]
    rng = np.random.default_rng([seed, *case.encode()])
    config = random_config(rng, model_class, changes)
    shared = (seed + list(CASES).index(case)) % 2 == 0
    inputs = random_inputs(rng, model_class, config, shared=shared)
    inputs |= {name: options[name] for name in options.keys() & inputs.keys()}
    options = {name: value for name, value in options.items() if name not in inputs}
    module = perturbed_twin(model_class, config, seed)
    model = in_jax(model_class, config, module, tmp_path)

    def cotangent(shape):
        return np.random.default_rng(seed).normal(size=shape).astype(np.float32)

    expected, expected_gradients = run_twin(module, inputs, options, cotangent)
    found, found_gradients = run_jax(model, inputs, options, cotangent)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(a, b)
    idle = {"text": "code_expert.", "code": "text_expert."}.get(options.get("expert_type"), "none")
    without = {name for name in found_gradients if name.startswith(idle)}
    without |= untrained(model_class, config)
    assert without == found_gradients.keys() - expected_gradients.keys()
    assert not any(np.any(found_gradients.pop(name)) for name in without)
    assert_close_in_norm(found_gradients, expected_gradients)
