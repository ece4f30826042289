"""T5X runs the same experiments: what `t5x.train`, `t5x.eval` and `t5x.infer` ask of a model.

    python -m t5x.train --gin_search_paths=gin --gin_file=experiments/quickstart.gin --gin_file=runs/t5x/train.gin
        --gin.MODEL_DIR="'runs/quickstart_t5x'"

`Model.training` is the experiment's own `run.Training`: objective, optimizer, what is trained, where parameters come
from. To T5X only what is trained are parameters. Frozen parameters are a collection of variables of their own,
"frozen", which steps are given and hand on: they have no gradients, no optimizer state, and are in no checkpoint.

T5X is not on PyPI, and nothing else of slm_jax needs it; docs/t5x.md says how to get it.
"""

try:
    import t5x  # noqa: F401
except ImportError as error:
    raise ImportError(
        "T5X is not installed. It is not on PyPI: docs/t5x.md of slm_jax says which commits of it and of what it needs"
        " to take. `python -m slm_jax.train` does without it"
    ) from error

from slm_jax.t5x_bridge.batches import Batches, get_dataset
from slm_jax.t5x_bridge.evaluator import Evaluator
from slm_jax.t5x_bridge.model import Model
from slm_jax.t5x_bridge.optimizer import Optimizer, logical_axis_rules
from slm_jax.t5x_bridge.state import CheckpointManager, TrainStateInitializer, checkpoint_path, native_checkpoint
from slm_jax.t5x_bridge.trainer import Trainer

__all__ = [
    "Batches",
    "CheckpointManager",
    "Evaluator",
    "Model",
    "Optimizer",
    "TrainStateInitializer",
    "Trainer",
    "checkpoint_path",
    "get_dataset",
    "logical_axis_rules",
    "native_checkpoint",
]
