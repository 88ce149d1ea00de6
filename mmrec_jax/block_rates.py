"""Which of an expert's first blocks are frozen, and which are trained slowly (section 5.6).

The transfer returns these rates, training uses them, and the config checks its settings with them.
"""


def block_rates(
    blocks: int, *, freeze_blocks: int = 0, slow_blocks: int = 0, slow_rate: float = 0.1
) -> tuple[float, ...]:
    """Each block's share of the learning rate, 0 where it is frozen.

    Args:
        blocks: the number of the expert's blocks.
        freeze_blocks: how many of the first blocks are not trained.
        slow_blocks: how many of the first blocks are trained at a smaller rate, unless frozen.
        slow_rate: the rate of the slow blocks as a share of the learning rate.

    Raises:
        ValueError: an argument is out of its range.
    """
    for name, count in (("freeze_blocks", freeze_blocks), ("slow_blocks", slow_blocks)):
        if not 0 <= count <= blocks:
            raise ValueError(f"{name} must lie in [0, {blocks}], the expert's blocks, not {count}")
    if not 0 < slow_rate <= 1:
        raise ValueError(f"slow_rate must lie in (0, 1], not {slow_rate}")
    slow = max(slow_blocks - freeze_blocks, 0)
    trained = blocks - freeze_blocks - slow
    return (0.0,) * freeze_blocks + (slow_rate,) * slow + (1.0,) * trained
