"""Magika in one thread.

It is a separate module because magika takes 25 MB, and most workers do not label anything.
"""

import onnxruntime
from magika import Magika


class OneThreadMagika(Magika):
    """Magika with a session of one thread: the workers are processes already."""

    def _init_onnx_session(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return onnxruntime.InferenceSession(
            self._model_path, options, providers=["CPUExecutionProvider"]
        )
