"""Distillation: what the language model says to speech becomes what it says to the transcript."""

import dataclasses
from collections.abc import Collection
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from slm_jax.models.interfaces import LossOutput
from slm_jax.training.chunks import sum_by_chunks
from slm_jax.training.cross_entropy import TokenSums, check_settings, cross_entropy_sums
from slm_jax.training.objective import hidden_states, init_parameters, output_head
from slm_jax.typing import Array, Batch, Float, PRNGKey, PyTree

TEACHER_TOKENS = "teacher_input_tokens"


class _Given(NamedTuple):
    """What is known of each target position besides the student's hidden state."""

    teacher_hidden: jax.Array
    targets: jax.Array
    weights: jax.Array


class _Sums(NamedTuple):
    student: TokenSums
    teacher: TokenSums


@dataclasses.dataclass(frozen=True)
class Distillation:
    """Sum over target tokens of the divergence between a teacher's and the student's next token.

    The student is the system: speech and instruction, through the adapter, to the language model. The teacher is the
    same language model with the transcript and the instruction in writing, `teacher_input_tokens`. Both are given the
    same decoder inputs, and each target token costs, with temperature t and label_weight w,

        w * cross-entropy(target, student) + (1 - w) * t^2 * KL(softmax(teacher / t) || softmax(student / t))

    where t^2 keeps the size of the gradients (Hinton et al., arXiv 1503.02531, section 2). The teacher is a constant:
    it runs without dropout, gets no gradient, and nothing of it is kept for the backward pass. (Where the language
    model is trained too, the teacher moves with it.) Metrics: `nll` and `accuracy` on the targets, as of
    TeacherForcing; `teacher_nll`, the teacher's; and the model's own.

    To measure on batches without `teacher_input_tokens`, and in numbers comparable with those of other runs, give the
    run a TeacherForcing as `Training.listening_objective`.

    Attributes:
      model: called as `model(batch, training=...) -> hidden`, with a method `logits(hidden)`.
      temperature: what both models' logits are divided by in the divergence.
      label_weight: share of the cross-entropy on the targets.
      z_loss: as of TeacherForcing; a part of the cross-entropy.
      label_smoothing: as of TeacherForcing; a part of the cross-entropy.
      chunk_tokens: how many target positions of an example meet the vocabulary at once, once for either model.

    Raises:
      ValueError: a temperature that is not above 0 and finite, a label_weight outside [0, 1], or a z_loss or
        label_smoothing that has no effect, the label_weight being 0; where the loss is computed, a batch without
        `teacher_input_tokens`.
    """

    model: nn.Module
    temperature: float = 1.0
    label_weight: float = 0.0
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    chunk_tokens: int = 128

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be above 0 and finite, got {self.temperature}")
        if not 0 <= self.label_weight <= 1:
            raise ValueError(f"label_weight must be in [0, 1], got {self.label_weight}")
        check_settings(z_loss=self.z_loss, label_smoothing=self.label_smoothing)
        if not self.label_weight and (self.z_loss or self.label_smoothing):
            raise ValueError("z_loss and label_smoothing belong to the cross-entropy: they need a label_weight above 0")

    def init(self, rng: PRNGKey, batch: Batch) -> PyTree:
        """Random boxed parameters of every component that the student uses; the teacher has none of its own."""
        return init_parameters(self.model, rng, batch)

    def loss(self, params: PyTree, batch: Batch, *, rng: PRNGKey, training: Collection[str] = ()) -> LossOutput:
        """Sums over the batch's target tokens."""
        given = _Given(
            teacher_hidden=self._teach(params, batch),
            targets=batch["decoder_target_tokens"],
            weights=batch["decoder_loss_weights"],
        )
        hidden, told = hidden_states(self.model, params, batch, rng=rng, training=training)
        loss, sums = sum_by_chunks(self._chunk_loss, params["lm"], hidden, given, chunk_tokens=self.chunk_tokens)
        metrics = sums.student.metrics() | {"teacher_nll": (sums.teacher.nll, sums.teacher.weight)}
        return LossOutput(loss=loss, weight=sums.student.weight, metrics=metrics | told)

    def _teach(self, params: PyTree, batch: Batch) -> jax.Array:
        """The teacher's hidden states [B, L, E] over the targets.

        The gradient is stopped before the teacher runs and not behind it, so that none of it is ever prepared.
        """
        if TEACHER_TOKENS not in batch:
            raise ValueError(
                f"Distillation needs {TEACHER_TOKENS} in the batch, what the teacher reads. In training, take a task "
                "of Form.TAUGHT (scenes_<config>_taught) and give TASK_FEATURE_LENGTHS and the buckets a length of "
                "'teacher_inputs'. For listening batches, set run.Training.listening_objective to TeacherForcing."
            )
        written = {
            "encoder_input_tokens": batch[TEACHER_TOKENS],
            "decoder_input_tokens": batch["decoder_input_tokens"],
        }
        constants = {"lm": jax.lax.stop_gradient(params["lm"])}
        hidden: Any = self.model.apply({"params": constants}, written)
        return hidden

    def _chunk_loss(self, lm_params: PyTree, hidden: jax.Array, given: _Given) -> tuple[jax.Array, _Sums]:
        head = output_head(self.model)
        student = head(lm_params, hidden).astype(jnp.float32)
        teacher = jax.lax.stop_gradient(head(lm_params, given.teacher_hidden).astype(jnp.float32))
        on_labels, student_sums = cross_entropy_sums(
            student, given.targets, given.weights, z_loss=self.z_loss, label_smoothing=self.label_smoothing
        )
        _, teacher_sums = cross_entropy_sums(teacher, given.targets, given.weights)
        divergence = softened_divergence(teacher, student, temperature=self.temperature)
        on_teacher = jnp.sum(divergence * given.weights.astype(jnp.float32))
        loss = self.label_weight * on_labels + (1 - self.label_weight) * on_teacher
        return loss, _Sums(student_sums, teacher_sums)


def softened_divergence(
    teacher: Float[Array, "B L V"], student: Float[Array, "B L V"], *, temperature: float
) -> Float[Array, "B L"]:
    """temperature^2 * KL(softmax(teacher / temperature) || softmax(student / temperature)), in nats.

    Reductions over the vocabulary only, so that it may be split over devices.
    """
    known = jax.nn.log_softmax(teacher / temperature, axis=-1)
    guessed = jax.nn.log_softmax(student / temperature, axis=-1)
    return temperature**2 * jnp.sum(jnp.exp(known) * (known - guessed), axis=-1)
