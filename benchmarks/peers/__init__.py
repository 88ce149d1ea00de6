"""MM-Rec beside other language models: same text, tokenizer, batches, optimizer and schedule."""
