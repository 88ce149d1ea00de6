"""The prepared data: its folder, token files, tokenizer, and the batches made from them."""
