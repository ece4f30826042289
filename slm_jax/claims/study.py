"""What one bundle answers to the test sentences: to speech, to transcripts, with name lists, in other wordings."""

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from slm_jax.cascade import CascadeEvaluation, RetrievalEvaluation
from slm_jax.claims.hearing import Hearing
from slm_jax.data.pipeline import eval_batches
from slm_jax.data.prompts import PromptTemplate
from slm_jax.evaluation import CTCEvaluation, DecodedEvaluation, Examples, Prediction, WordedEvaluation
from slm_jax.inference import LoadedModel
from slm_jax.models.interfaces import LossOutput
from slm_jax.tasks import scenes
from slm_jax.tasks.name_lists import NameList
from slm_jax.tasks.registration import Form
from slm_jax.tasks.spoken_scenes import names
from slm_jax.tasks.spoken_scenes.families import FAMILY
from slm_jax.training.freezing import count_parameters
from slm_jax.training.objective import remove_speech, shuffle_speech
from slm_jax.typing import Batch, PyTree
from slm_jax.weights.foundation import load_component

Answers = list[Prediction]

SPLIT = "test"
FROM_WAVEFORMS = (CTCEvaluation, CascadeEvaluation, RetrievalEvaluation)
"""Evaluations that listen themselves."""
NAME_TOKENS = 4
"""Room for a name in a list."""


class Study:
    """The answers of a model, each kind computed when it is first asked for. All are in the order of the test split.

    Args:
      model: the bundle with its frozen parts.
      config: whose test split: a configuration of the dataset spoken_scenes.
      batch_size: examples decoded at once.
      output: a folder for the answers: a file of JSON lines for each kind, written as soon as it is answered.
    """

    def __init__(self, model: LoadedModel, *, config: str, batch_size: int, output: pathlib.Path) -> None:
        self.model = model
        self.config = config
        self.batch_size = batch_size
        self.output = output
        self.found: dict[str, Answers] = {}
        self.heard: dict[str, list[Examples]] = {}
        self.hearing = Hearing(model.training.objective.model)

    def spoken(self, family: str) -> Answers:
        """To the speech and the first wording of a family's instruction."""
        return self._answers(f"{family}, speech", DecodedEvaluation, family)

    def written(self, family: str) -> Answers:
        """To the true transcript in the place of the speech: what the language model could do before."""
        return self._answers(f"{family}, transcript", DecodedEvaluation, family, form=Form.TEXT)

    def in_silence(self) -> Answers:
        """What is transcribed where silence is around the speech."""
        return self._answers("transcribe, silence", DecodedEvaluation, "transcribe", silence=True)

    def ctc(self) -> Answers:
        """What the speech encoder writes by itself."""
        return self._answers("transcribe, CTC", CTCEvaluation, "transcribe")

    def cascade(self, family: str) -> Answers:
        """To what the encoder writes, in the place of the speech."""
        return self._answers(f"{family}, cascade", CascadeEvaluation, family)

    def listed(self, size: int, *, with_name: bool) -> Answers:
        """To the speech and a list of names."""
        which = "with" if with_name else "without"
        return self._answers(
            f"bias, {size} names {which} the right one",
            DecodedEvaluation,
            "bias",
            name_list=NameList(size, with_name),
        )

    def retrieved(self, limit: int) -> Answers:
        """To the speech and the names of a catalogue of 1000 that are most like what the encoder writes."""
        prompt = scenes.template_of(FAMILY["bias"]).trained[0]
        make = functools.partial(RetrievalEvaluation, catalogue=names.CATALOGUE, prompt=prompt, limit=limit)
        return self._answers(f"bias, {limit} names retrieved", make, "bias")

    def worded(self, family: str, prompt: str) -> Answers:
        """To the speech and another wording of a family's instruction."""
        return self._answers(f"{family}, {prompt}", functools.partial(WordedEvaluation, prompt=prompt), family)

    def template(self, family: str) -> PromptTemplate:
        """The wordings of a family."""
        return scenes.template_of(FAMILY[family])

    def text_scores(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Scores of all tokens over the answers to transcripts: within this system, and of the source of its language
        model by itself; a pair a batch.
        """
        training = self.model.training
        shapes = training.shapes["lm"]
        alone = {"lm": load_component(training.sources["lm"], component="lm", shapes=shapes).parameters}
        model = training.objective.model

        @jax.jit
        def scores(params: PyTree, batch: Batch) -> jax.Array:
            hidden: Any = model.apply({"params": params}, batch)
            logits: Any = model.apply({"params": params}, hidden, method="logits")
            return logits

        batches = self._batches("transcribe", form=Form.TEXT)
        within = self.model.params
        return [(np.asarray(scores(within, batch)), np.asarray(scores(alone, batch))) for batch in batches]

    def listening_losses(self) -> dict[str, float]:
        """Loss a token of transcription with true, shuffled and no speech."""
        training = self.model.training
        objective = training.listening_objective or training.objective
        changes: dict[str, Callable[[Batch], Batch]] = {"true": dict, "shuffled": shuffle_speech, "no": remove_speech}

        @jax.jit
        def losses(params: PyTree, batch: Batch) -> dict[str, LossOutput]:
            key = jax.random.key(0)
            return {name: objective.loss(params, change(batch), rng=key) for name, change in changes.items()}

        outputs = [losses(self.model.params, batch) for batch in self._batches("transcribe", form=Form.SPEECH)]
        total = functools.reduce(functools.partial(jax.tree.map, jnp.add), outputs)
        return {name: float(sums.loss / sums.weight) for name, sums in total.items()}

    def counts(self) -> dict[str, Any]:
        """Trained and frozen parameters."""
        return count_parameters(self.model.params, self.model.training.trainable)

    @property
    def size(self) -> int:
        """Examples of the test split."""
        return len(self.spoken("transcribe"))

    def _answers(
        self,
        name: str,
        make: Callable[..., DecodedEvaluation],
        family: str,
        *,
        form: Form = Form.SPEECH,
        name_list: NameList = scenes.TEN_NAMES,
        silence: bool = False,
    ) -> Answers:
        if name not in self.found:
            evaluation = make(
                task=scenes.task_name(self.config, family, form=form, name_list=name_list, silence=silence),
                split=SPLIT,
                task_feature_lengths=self._lengths(form, names=name_list.size if family == "bias" else 0),
                batch_size=self.batch_size,
            )
            start = time.monotonic()
            self.found[name] = self._run(evaluation, form)
            self._write(name)
            print(f"{name}: {len(self.found[name])} answers, {time.monotonic() - start:.1f} s", flush=True)
        return self.found[name]

    def _run(self, evaluation: DecodedEvaluation, form: Form) -> Answers:
        model, params = self.model.training.objective.model, self.model.params
        if form is not Form.SPEECH or isinstance(evaluation, FROM_WAVEFORMS):
            return evaluation.run(evaluation.predict(model), params).predictions
        if evaluation.task not in self.heard:
            batches = ((jax.device_put(batch), texts) for batch, texts in evaluation.examples())
            self.heard[evaluation.task] = [(self.hearing.add(params, batch), texts) for batch, texts in batches]
        predict = evaluation.predict(self.hearing.reader)
        return evaluation.run(predict, params, examples=self.heard[evaluation.task]).predictions

    def _write(self, name: str) -> None:
        self.output.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(dataclasses.asdict(answer), ensure_ascii=False) + "\n" for answer in self.found[name]]
        (self.output / f"{name.replace(', ', '-').replace(' ', '_')}.jsonl").write_text("".join(lines))

    def _batches(self, family: str, *, form: Form) -> Iterator[Batch]:
        batches = eval_batches(
            scenes.task_name(self.config, family, form=form),
            split=SPLIT,
            task_feature_lengths=self._lengths(form),
            batch_size=self.batch_size,
        )
        return map(jax.device_put, batches)

    def _lengths(self, form: Form, *, names: int = 0) -> dict[str, int]:
        """Those of training, with room for a transcript before the instruction or for a list of names in it."""
        lengths = dict(self.model.task_feature_lengths)
        transcript = lengths["targets"] if form is Form.TEXT else 0
        return lengths | {"inputs": lengths["inputs"] + transcript + NAME_TOKENS * names}
