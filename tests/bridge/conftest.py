"""The original's modules as far as names, shapes and order go, written without the key table."""

import pytest
import torch
from torch import nn

from mmrec_jax import ModelConfig


def norm(dim: int) -> nn.Module:
    module = nn.Module()
    module.weight = nn.Parameter(torch.ones(dim))
    return module


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


def block(c: ModelConfig) -> nn.Module:
    dim, inner = c.model_dim, c.model_dim // 4
    module = nn.Module()
    if c.use_hem:
        pe_dim = c.model_dim if c.pe_dim is None else c.pe_dim
        module.W_fused = nn.Linear(dim, 5 * dim + pe_dim)
    else:
        module.W_q = nn.Linear(dim, dim)
        module.W_k = nn.Linear(dim, dim)
        module.W_v = nn.Linear(dim, dim)
        module.W_z = nn.Linear(dim, dim)
    module.W_g = nn.Linear(dim, dim)
    module.norm1 = norm(dim)
    module.norm2 = norm(dim)
    if c.use_dpg:
        module.W_gamma_down = nn.Linear(dim, c.dpg_rank)
        module.W_gamma_up = nn.Linear(c.dpg_rank, dim)
    module.mdi = nn.Module()
    module.mdi.W_g = nn.Linear(2 * dim, dim)
    module.mdi.W_gamma = mlp(dim, inner, dim)
    module.mdi.W_context = mlp(dim, inner, dim)
    if c.use_uboo:
        module.mdi.W_planning_error = mlp(dim, dim, dim)
        module.mdi.W_planning_target = mlp(dim, dim, dim)
    module.multi_mem_attention = nn.Module()
    module.multi_mem_attention.W_q = nn.Linear(dim, dim)
    module.multi_mem_attention.W_o = nn.Linear(dim, dim)
    if c.use_sparse:
        bits = c.num_experts.bit_length() - 1
        module.ffn = nn.Module()
        module.ffn.expert_weights = nn.Parameter(torch.zeros(c.num_experts, dim, dim))
        module.ffn.router = nn.Module()
        module.ffn.router.register_buffer("hyperplanes", torch.zeros(dim, bits))
        module.ffn.router.register_buffer("powers", 2 ** torch.arange(bits))
    else:
        module.ffn = nn.Sequential(
            nn.Linear(dim, c.ffn_dim),
            nn.GELU(),
            nn.Dropout(),
            nn.Linear(c.ffn_dim, dim),
            nn.Dropout(),
        )
    return module


def expert_module(c: ModelConfig) -> nn.Module:
    module = nn.Module()
    module.blocks = nn.ModuleList(block(c) for _ in range(c.num_layers))
    module.norm = norm(c.model_dim)
    return module


def mmrec_model(c: ModelConfig) -> nn.Module:
    module = nn.Module()
    module.embedding = nn.Embedding(c.vocab_size, c.model_dim)
    module.blocks = nn.ModuleList(block(c) for _ in range(c.num_layers))
    module.norm = norm(c.model_dim)
    module.lm_head = nn.Linear(c.model_dim, c.vocab_size, bias=False)
    module.lm_head.weight = module.embedding.weight
    return module


def fusion_layer(c: ModelConfig) -> nn.Module:
    dim = c.model_dim
    module = nn.Module()
    module.fusion_proj = nn.Linear(2 * dim, 2 * dim if c.fused_dim is None else c.fused_dim)
    if c.fusion_method == "weighted":
        module.gate = nn.Sequential(nn.Linear(2 * dim, dim), nn.Sigmoid())
    return module


def mmrec_100m(c: ModelConfig) -> nn.Module:
    module = nn.Module()
    module.embedding = nn.Embedding(c.vocab_size, c.model_dim)
    module.text_expert = expert_module(c)
    module.code_expert = expert_module(c)
    module.fusion = fusion_layer(c)
    module.final_norm = norm(2 * c.model_dim)
    module.lm_head = nn.Linear(2 * c.model_dim, c.vocab_size, bias=False)
    return module


SKELETONS = {
    "MMRecModel": mmrec_model,
    "ExpertModule": expert_module,
    "FusionLayer": fusion_layer,
    "MMRec100M": mmrec_100m,
}


@pytest.fixture(scope="session")
def skeleton():
    """(model_class, config, seed) -> a torch module with the original's parameters, all random."""

    def build(model_class: str, config: ModelConfig, seed: int = 0) -> nn.Module:
        module = SKELETONS[model_class](config)
        generator = torch.Generator().manual_seed(seed)
        for name, tensor in module.state_dict().items():
            if not name.endswith("powers"):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
        return module

    return build
