"""From a source of examples to a registered SeqIO task, the same way for every dataset.

All tasks may be cached, in an environment of its own with `slm_jax[cache]`:

    seqio_cache_tasks --tasks=NAME --output_cache_dir=DIR --module_import=slm_jax.tasks.scenes

Runs with `--gin.USE_CACHED_TASKS=True --seqio_additional_cache_dirs=DIR` then read decoded audio and text from it;
instructions are still drawn anew in every epoch. `python -m slm_jax.cache_features` writes a cache that holds what the
speech encoder makes of the speech.
"""

import dataclasses
import enum
import functools
from collections.abc import Callable

import seqio
import tensorflow as tf

from slm_jax.data import feature_cache, metrics, preprocessors
from slm_jax.data.preprocessors import Preprocessor, Wording
from slm_jax.data.prompts import PromptTemplate
from slm_jax.data.span_corruption import span_corruption

Metric = Callable[..., dict[str, float]]

TRANSCRIPTION_METRICS: tuple[Metric, ...] = (
    functools.partial(metrics.word_error_rate, normalizer=metrics.basic_normalizer),
    functools.partial(metrics.character_error_rate, normalizer=metrics.basic_normalizer),
)
"""WER and CER of lower case words without punctuation."""

TRANSLATION_METRICS: tuple[Metric, ...] = (metrics.bleu, metrics.chrf)
ANSWER_METRICS: tuple[Metric, ...] = (metrics.exact_match, metrics.word_error_rate)
SENTENCE_METRICS: tuple[Metric, ...] = (metrics.bleu, metrics.exact_match, metrics.word_error_rate)

SENTENCES = ("continuation", "instruct", "negation", "number", "opposite", "reply", "summary", "tense")
"""Kinds of instructions that are answered by a sentence; BLEU tells one wrong word of it from ten."""


def metrics_for(kind: str) -> tuple[Metric, ...]:
    """What predictions for a kind of instruction (`PromptTemplate.kind`) are judged by."""
    if kind.startswith(("transcribe", "bias")):
        return TRANSCRIPTION_METRICS
    if kind.startswith("translate"):
        return TRANSLATION_METRICS
    return SENTENCE_METRICS if kind.startswith(SENTENCES) else ANSWER_METRICS


class Form(enum.Enum):
    """What stands before the instruction."""

    SPEECH = "speech"
    TAUGHT = "taught"
    """As SPEECH, and with `teacher_inputs`, the inputs of TEXT, for distillation."""
    TEXT = "text"
    """The transcript in place of the speech: the language model's own training."""
    TEXT_AMONG_SPEECH = "text_among_speech"
    """As TEXT, with empty speech, for mixtures with speech tasks."""
    SPAN_CORRUPTION = "span_corruption"
    """The transcript alone, with gaps; no instruction."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskDefinition:
    """What a task is made of.

    Attributes:
      name: to register it under.
      source: gives `training` (see `slm_jax.data.sources`) and what `decode` needs.
      decode: steps that end with `speech` (float32, 16 kHz) if the form is SPEECH or TAUGHT, `transcript`, `targets`
        and the template's fields. Runs before the cache.
      template: the instruction; not needed for span corruption.
      vocabulary: the language model's.
      form: of the inputs.
      wording: which of the template's wordings; in gin 'trained', 'first' or 'unseen'.
      before_prompt: steps after the cache that add fields of the template.
      after_prompt: steps between the prompt and the tokens.
      metric_fns: of decoded predictions.
      shuffle_buffer_size: examples held in memory to be shuffled; speech takes 64 kB a second.
    """

    name: str
    source: seqio.DataSource
    decode: tuple[Preprocessor, ...]
    vocabulary: seqio.Vocabulary
    template: PromptTemplate | None = None
    form: Form = Form.SPEECH
    wording: Wording | str = Wording.TRAINED
    before_prompt: tuple[Preprocessor, ...] = ()
    after_prompt: tuple[Preprocessor, ...] = ()
    metric_fns: tuple[Metric, ...] = TRANSCRIPTION_METRICS
    shuffle_buffer_size: int = 512

    def preprocessors(self) -> list[Preprocessor]:
        """Decoding, the cache, the prompt, the tokens."""
        cached = (seqio.CacheDatasetPlaceholder(), feature_cache.restore_embeddings)
        return [*self.decode, *cached, *self._prompt(), *self._tokens()]

    def output_features(self) -> dict[str, seqio.Feature]:
        """Speech, unless the form has none, and tokens that end with the end-of-sequence id."""
        tokens = seqio.Feature(vocabulary=self.vocabulary, add_eos=True, dtype=tf.int32)
        features: dict[str, seqio.Feature] = {"inputs": tokens, "targets": tokens}
        if self.form in (Form.SPEECH, Form.TAUGHT, Form.TEXT_AMONG_SPEECH):
            # One of the two: a cache may hold features of the speech in its place.
            features["speech"] = seqio.ContinuousFeature(dtype=tf.float32, rank=1, required=False)
            features["speech_embeddings"] = seqio.ContinuousFeature(dtype=tf.float32, rank=2, required=False)
        if self.form is Form.TAUGHT:
            features["teacher_inputs"] = tokens
        return features

    def _prompt(self) -> tuple[Preprocessor, ...]:
        if self.form is Form.SPAN_CORRUPTION:
            return ()
        if self.template is None:
            raise ValueError(f"Task '{self.name}' needs a prompt template")
        attach = functools.partial(preprocessors.attach_prompt, template=self.template, wording=Wording(self.wording))
        return (*self.before_prompt, attach, *self.after_prompt)

    def _tokens(self) -> tuple[Preprocessor, ...]:
        if self.form is Form.SPAN_CORRUPTION:
            return (span_corruption,)
        if self.form is Form.SPEECH:
            return (preprocessors.tokenize_speech_task,)
        if self.form is Form.TAUGHT:
            return (preprocessors.add_teacher_inputs, preprocessors.tokenize_speech_task)
        if self.form is Form.TEXT_AMONG_SPEECH:
            return (preprocessors.tokenize_text_task, preprocessors.add_empty_speech)
        return (preprocessors.tokenize_text_task,)


def register(definition: TaskDefinition) -> str:
    """Registers the task and gives its name.

    Raises:
      ValueError: a task or mixture of this name exists.
    """
    if definition.name in {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}:
        raise ValueError(f"There is already a task or mixture called '{definition.name}'; give another name")
    seqio.TaskRegistry.add(
        definition.name,
        source=definition.source,
        preprocessors=definition.preprocessors(),
        output_features=definition.output_features(),
        metric_fns=list(definition.metric_fns),
        shuffle_buffer_size=definition.shuffle_buffer_size,
    )
    return definition.name


@dataclasses.dataclass
class RegisterOnce:
    """Lets gin evaluate `MIXTURE_OR_TASK_NAME = @register_...()` as often as it likes.

    Attributes:
      settings: of what was registered here, by name.
    """

    settings: dict[str, tuple[object, ...]] = dataclasses.field(default_factory=dict)

    def __call__(self, make: Callable[[], TaskDefinition], *, name: str, settings: tuple[object, ...]) -> str:
        """Registers what `make` gives, unless the same settings are already registered under `name`.

        Raises:
          ValueError: the name is taken by something else.
        """
        if name not in self.settings or self.settings[name] != settings:
            register(make())
            self.settings[name] = settings
        return name


register_once = RegisterOnce()
