"""Optimizers and learning-rate schedules as plain functions, so that a gin file can name and set them."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from slm_jax import trees
from slm_jax.typing import PyTree

Schedule = Callable[[jax.Array | int], jax.Array | float]
LearningRate = float | Schedule

NO_DECAY = (r".*/bias", r".*/scale", r".*embedding")
"""Parameters that are usually not decayed: biases, the scales of norms and tables of vectors."""


def constant(*, learning_rate: float) -> Schedule:
    """The same learning rate at every step."""
    _check_rate(learning_rate)
    return optax.constant_schedule(learning_rate)


def rsqrt_with_warmup(*, base_learning_rate: float = 1.0, warmup_steps: int = 10_000) -> Schedule:
    """base_learning_rate / sqrt(max(step, warmup_steps)): T5's pretraining schedule (arXiv 1910.10683, section 3.1.2).

    The rate stays at its highest, base_learning_rate / sqrt(warmup_steps), for the steps of the warm-up.
    """
    _check_rate(base_learning_rate)
    if warmup_steps < 1:
        raise ValueError(f"warmup_steps must be at least 1 under inverse square root decay, got {warmup_steps}")
    return lambda step: base_learning_rate / jnp.sqrt(jnp.maximum(step, warmup_steps))


def linear_warmup_cosine_decay(
    *, peak_learning_rate: float, warmup_steps: int, total_steps: int, end_learning_rate: float = 0.0
) -> Schedule:
    """From 0 to the peak in `warmup_steps`, then along a half cosine to the end at `total_steps`; constant after it."""
    _check_warmup(peak_learning_rate, warmup_steps, total_steps, end_learning_rate)
    return optax.warmup_cosine_decay_schedule(0.0, peak_learning_rate, warmup_steps, total_steps, end_learning_rate)


def linear_warmup_linear_decay(
    *, peak_learning_rate: float, warmup_steps: int, total_steps: int, end_learning_rate: float = 0.0
) -> Schedule:
    """From 0 to the peak in `warmup_steps`, then in a straight line to the end at `total_steps`; constant after it."""
    _check_warmup(peak_learning_rate, warmup_steps, total_steps, end_learning_rate)
    decay = optax.linear_schedule(peak_learning_rate, end_learning_rate, total_steps - warmup_steps)
    warmup = optax.linear_schedule(0.0, peak_learning_rate, warmup_steps) if warmup_steps else decay
    return optax.join_schedules([warmup, decay], [warmup_steps])


def _check_rate(learning_rate: float) -> None:
    if not learning_rate > 0:
        raise ValueError(f"the learning rate must be above 0, got {learning_rate}")


def _check_warmup(peak: float, warmup_steps: int, total_steps: int, end: float) -> None:
    _check_rate(peak)
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f"warmup_steps ({warmup_steps}) must be between 0 and total_steps ({total_steps}), exclusive")
    if not 0 <= end <= peak:
        raise ValueError(f"end_learning_rate ({end}) must be between 0 and the peak ({peak})")


def adamw(
    *,
    learning_rate: LearningRate,
    b1: float = 0.9,
    b2: float = 0.98,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    no_decay: Sequence[str] = NO_DECAY,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (arXiv 1711.05101).

    Args:
      learning_rate: a number or a schedule of the step.
      b1: decay of the mean of gradients.
      b2: decay of the mean of squared gradients.
      eps: added to the root of the latter.
      weight_decay: share of a parameter taken off a step, times the learning rate.
      no_decay: patterns of parameters that are not decayed.
      clip_norm: gradients are scaled down to this global norm; None for no clipping.

    Raises:
      ValueError: a decay outside [0, 1), a negative weight decay, or a number that must be above 0 and is not.
    """
    _check_decays(b1=b1, b2=b2)
    _check_regularisation(learning_rate, weight_decay, clip_norm)
    mask = _decay_mask(no_decay)
    return _clipped(optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay, mask=mask), clip_norm)


def adafactor(
    *,
    learning_rate: LearningRate,
    decay_rate: float = 0.8,
    clipping_threshold: float | None = 1.0,
    multiply_by_parameter_scale: bool = True,
    min_dim_size_to_factor: int = 128,
    momentum: float | None = None,
    weight_decay: float = 0.0,
    no_decay: Sequence[str] = NO_DECAY,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Adafactor (arXiv 1804.04235) with the settings of T5: a second moment of rows and columns, no momentum.

    Args:
      learning_rate: a number or a schedule of the step; relative to a parameter's scale, see below.
      decay_rate: exponent of the second moment's decay, 1 - step ** -decay_rate.
      clipping_threshold: largest root mean square of the update of one array.
      multiply_by_parameter_scale: updates are relative to the root mean square of the parameter.
      min_dim_size_to_factor: arrays with a smaller second-largest axis keep a full second moment.
      momentum: decay of the mean of updates; None for none, which saves memory.
      weight_decay: share of a parameter taken off a step, times the learning rate.
      no_decay: patterns of parameters that are not decayed.
      clip_norm: gradients are scaled down to this global norm; None for no clipping.

    Raises:
      ValueError: a decay outside [0, 1), a negative weight decay, or a number that must be above 0 and is not.
    """
    _check_decays(decay_rate=decay_rate, **({} if momentum is None else {"momentum": momentum}))
    _check_regularisation(learning_rate, weight_decay, clip_norm)
    # Decay follows the scaling by the learning rate in optax.adafactor, so it is put before it here.
    parts = [
        optax.scale_by_factored_rms(decay_rate=decay_rate, min_dim_size_to_factor=min_dim_size_to_factor),
        *([] if clipping_threshold is None else [optax.clip_by_block_rms(clipping_threshold)]),
        *([optax.scale_by_param_block_rms()] if multiply_by_parameter_scale else []),
        *([] if momentum is None else [optax.ema(momentum, debias=False)]),
        optax.add_decayed_weights(weight_decay, _decay_mask(no_decay)),
        optax.scale_by_learning_rate(learning_rate),
    ]
    return _clipped(optax.chain(*parts), clip_norm)


def muon(
    *,
    learning_rate: LearningRate,
    matrices: Sequence[str],
    momentum: float = 0.95,
    update_rms: float = 0.2,
    b1: float = 0.9,
    b2: float = 0.98,
    weight_decay: float = 0.0,
    no_decay: Sequence[str] = NO_DECAY,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Muon (Jordan et al., 2024): momentum of matrices made orthogonal; Adam for the rest.

    Both with Nesterov's look ahead.

    Args:
      learning_rate: a number or a schedule of the step, of both.
      matrices: patterns of the kernels that Muon trains: two axes, or three where heads have an axis.
      momentum: decay of the mean of gradients of matrices.
      update_rms: root mean square of an update of a matrix, times the learning rate; 0.2 is about Adam's
        (arXiv 2502.16982), so that both can have one learning rate.
      b1, b2: Adam's decays.
      weight_decay: share of a parameter taken off a step, times the learning rate.
      no_decay: patterns of parameters that are not decayed.
      clip_norm: gradients are scaled down to this global norm; None for no clipping.

    Raises:
      ValueError: as `adamw`; or (in `init`) a pattern matches no parameter, or one that is no matrix.
    """
    _check_decays(momentum=momentum, b1=b1, b2=b2)
    _check_regularisation(learning_rate, weight_decay, clip_norm)
    if not update_rms > 0:
        raise ValueError(f"update_rms must be above 0, got {update_rms}")

    def dimensions(params: PyTree) -> PyTree:
        paths = trees.flatten(params)
        trees.check_coverage(paths, matrices)
        axes = {
            path: _matrix_axes(path, leaf) if trees.matches(path, matrices) else None for path, leaf in paths.items()
        }
        return trees.unflatten(axes)

    # Its own decay of what Adam trains has no mask, so decay and rate follow it here.
    direction = optax.contrib.muon(
        1.0,
        beta=momentum,
        adam_b1=b1,
        adam_b2=b2,
        muon_weight_dimension_numbers=dimensions,
        consistent_rms=update_rms,
    )
    parts = [
        direction,
        optax.scale(-1.0),
        optax.add_decayed_weights(weight_decay, _decay_mask(no_decay)),
        optax.scale_by_learning_rate(learning_rate),
    ]
    return _clipped(optax.chain(*parts), clip_norm)


def _matrix_axes(path: str, leaf: jax.Array) -> optax.contrib.MuonDimensionNumbers:
    """Which axes of a kernel are its input and its output."""
    shape = jnp.shape(leaf)
    if len(shape) == 3:  # heads and their channels belong together: behind a projection, before what joins the heads
        joins = path.endswith("/out/kernel")
        return optax.contrib.MuonDimensionNumbers((0, 1), 2) if joins else optax.contrib.MuonDimensionNumbers(0, (1, 2))
    if len(shape) != 2:
        raise ValueError(f"Muon trains matrices, and {path!r} has the shape {shape}")
    return optax.contrib.MuonDimensionNumbers(0, 1)


def per_component(
    *, optimizers: Mapping[str, optax.GradientTransformation], clip_norm: float | None = None
) -> optax.GradientTransformation:
    """A separate optimizer, hence learning rate, for each group of parameters.

    Args:
      optimizers: from the pattern of a group to its optimizer; the first pattern that matches a path decides.
      clip_norm: gradients of all groups together are scaled down to this global norm; None for no clipping.

    Raises:
      ValueError: no optimizer is given, or (in `init`) a parameter matches no pattern or a pattern no parameter.
    """
    if not optimizers:
        raise ValueError("per_component needs at least one pattern with its optimizer")
    # Names of groups are keys of the state; programs that join keys by '/' (T5X) would cut them there.
    groups = {pattern: pattern.replace(trees.SEPARATOR, ":") for pattern in optimizers}

    def labels(params: PyTree) -> PyTree:
        paths = trees.flatten(params)
        trees.check_coverage(paths, tuple(groups))
        return trees.unflatten({path: groups[_first_match(path, tuple(groups))] for path in paths})

    return _clipped(optax.partition({groups[p]: each for p, each in optimizers.items()}, labels), clip_norm)


def _first_match(path: str, patterns: Sequence[str]) -> str:
    for pattern in patterns:
        if trees.matches(path, (pattern,)):
            return pattern
    raise ValueError(f"the parameter {path!r} has no optimizer: none of {list(patterns)} matches it")


def _decay_mask(no_decay: Sequence[str]) -> Callable[[PyTree], PyTree]:
    def mask(params: PyTree) -> PyTree:
        return trees.unflatten({path: not trees.matches(path, no_decay) for path in trees.flatten(params)})

    return mask


def _clipped(optimizer: optax.GradientTransformation, clip_norm: float | None) -> optax.GradientTransformation:
    if clip_norm is None:
        return optimizer
    if not clip_norm > 0:
        raise ValueError(f"clip_norm must be above 0, got {clip_norm}")
    return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)


def _check_decays(**decays: float) -> None:
    for name, decay in decays.items():
        if not 0 <= decay < 1:
            raise ValueError(f"{name} must be in [0, 1), got {decay}")


def _check_regularisation(learning_rate: LearningRate, weight_decay: float, clip_norm: float | None) -> None:
    if not callable(learning_rate):
        _check_rate(learning_rate)
    if weight_decay < 0:
        raise ValueError(f"weight_decay must not be negative, got {weight_decay}")
