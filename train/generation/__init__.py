"""How a trained run continues prompts."""
