"""SeqIO's evaluator for tasks whose examples need not have every feature."""

import functools
from typing import Any

import seqio

from slm_jax.data import pipeline


class Evaluator(seqio.Evaluator):
    """SeqIO's evaluator, which wants every feature that a task may have: it is told of those that are there.

    Nothing is trimmed to `sequence_length`: what is longer is an error.
    """

    def __init__(
        self,
        mixture_or_task_name: str,
        feature_converter: seqio.FeatureConverter,
        *,
        eval_split: str = "validation",
        use_cached: bool = False,
        **arguments: Any,
    ) -> None:
        provider = pipeline.get_mixture_or_task(mixture_or_task_name)
        tasks = [task for task in seqio.get_subtasks(provider) if eval_split in task.splits]
        fitting = [(with_present_features(task, eval_split, use_cached=use_cached), 1.0) for task in tasks]
        name = f"{provider.name}, with the features that are there"  # SeqIO takes nothing but registered names
        seqio.MixtureRegistry.add(name, fitting)
        try:
            super().__init__(name, feature_converter, eval_split=eval_split, use_cached=use_cached, **arguments)
        finally:
            seqio.MixtureRegistry.remove(name)


def with_present_features(task: seqio.Task, split: str, *, use_cached: bool) -> seqio.Task:
    """The task without the output features that its examples lack, and without trimming."""
    present = task.get_dataset(None, split=split, use_cached=use_cached, shuffle=False).element_spec
    features = {name: feature for name, feature in task.output_features.items() if name in present}
    fitting = task.replace(output_features=features)
    fitting.get_dataset = functools.partial(fitting.get_dataset, trim_output_features=False)
    return fitting
