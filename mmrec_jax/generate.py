"""`python -m mmrec_jax.generate --checkpoint RUN`: the command that continues prompts.

What computes the tokens is in decoding.py.
"""

if __name__ == "__main__":
    # Runs and tokenizers are training's, which this package knows nothing of.
    from bridge import use_utf8
    from train.system.interrupt import end_at_once

    use_utf8()
    end_at_once()
    from train.generation.command import command

    command()
