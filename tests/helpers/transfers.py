"""Counts what moves between the host and the device."""

import contextlib
from unittest import mock

import jax
import numpy as np


class Transfers:
    """The shapes of the arrays that were sent to the device, and of those fetched from it."""

    def __init__(self):
        self.sent = []
        self.fetched = []


@contextlib.contextmanager
def counted():
    """Counts the transfers in the block that our code asks for."""
    transfers = Transfers()

    def watching(function, shapes, kind):
        def call(value, *args, **kwargs):
            shapes.extend(leaf.shape for leaf in jax.tree.leaves(value) if isinstance(leaf, kind))
            return function(value, *args, **kwargs)

        return call

    with contextlib.ExitStack() as stack:
        put = watching(jax.device_put, transfers.sent, np.ndarray)
        stack.enter_context(mock.patch.object(jax, "device_put", put))
        for module, name in ((jax, "device_get"), (np, "asarray"), (np, "array"), (np, "stack")):
            get = watching(getattr(module, name), transfers.fetched, jax.Array)
            stack.enter_context(mock.patch.object(module, name, get))
        yield transfers
