"""`python -m mmrec_jax.generate --checkpoint RUN`: the command that continues prompts.

decoding.py computes the tokens.
"""

if __name__ == "__main__":
    # Runs and tokenizers belong to training, which the rest of this package does not know.
    from bridge import use_utf8
    from train.system.interrupt import end_at_once

    use_utf8()
    end_at_once()
    from train.generation.command import command

    command()
