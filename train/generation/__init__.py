"""Text that a trained run writes after prompts."""
