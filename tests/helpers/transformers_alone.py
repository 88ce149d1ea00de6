"""Loads Hugging Face folders as people do who have torch and transformers, but not this project.

Run by `python -I transformers_alone.py RESULT FOLDER ...`; RESULT gets what the models did.
"""

import json
import sys

LENGTH = 200
PROMPTS = ["def f(x):\n", "import os, sys\nfor name in <|endoftext|>"]


def tried(folder):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    arguments = {"trust_remote_code": True, "local_files_only": True}
    model, loading = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, **arguments
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, **arguments)
    ids = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    first = torch.tensor(ids[:1])
    result = {
        "problems": [key for key, items in loading.items() if items],
        "ids": ids,
        "decoded": [tokenizer.decode(each, skip_special_tokens=True) for each in ids],
        "logits": model(first).logits[0].tolist(),
    }
    if model.config.use_sparse:
        try:
            model.generate(first)
        except ValueError as error:
            return result | {"error": str(error)}
    # Called once for the prompt and then for each token, whatever came before.
    seen = []
    forward = model.forward

    def counted(input_ids, **options):
        seen.append(input_ids.shape[1])
        return forward(input_ids, **options)

    model.forward = counted
    greedy = {"do_sample": False, "eos_token_id": None}

    def alone(prompt, length):
        inputs = tokenizer(prompt, return_tensors="pt")
        return model.generate(**inputs, max_new_tokens=length, **greedy)[0, -length:].tolist()

    whole = alone(PROMPTS[0], LENGTH)
    model.forward = forward
    batch = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    both = model.generate(**batch, max_new_tokens=20, **greedy)[:, -20:].tolist()
    beams = {"num_beams": 3, "max_new_tokens": 12, **greedy}
    with_state = model.generate(**batch, **beams).tolist()
    without = model.generate(**batch, **beams, use_cache=False).tolist()
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    model(**batch, labels=labels).loss.backward()
    return result | {
        "whole": whole,
        "seen": seen,
        "padded": both,
        "alone": [alone(prompt, 20) for prompt in PROMPTS],
        "beams": [with_state, without],
        "gradients": all(
            p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters()
        ),
    }


if __name__ == "__main__":
    for name in ("mmrec", "mmrec_jax", "bridge", "train", "jax", "flax"):
        sys.modules[name] = None  # they are installed where tests run; importing them now fails
    results = {folder: tried(folder) for folder in sys.argv[2:]}
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(results, file)
