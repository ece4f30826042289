"""Everything that reads data. TensorFlow and SeqIO are imported here and in tasks/ only."""

import os
import sys


def _import_tensorflow_quietly() -> None:
    """TensorFlow only reads data here, so it must leave the GPU alone.

    Its C++ parts write start-up notes before any of its settings count; so the file descriptor is silenced.
    """
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        import tensorflow as tf
        import tensorflow_text  # noqa: F401

        tf.config.set_visible_devices([], "GPU")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


_import_tensorflow_quietly()
