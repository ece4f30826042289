"""The loop: logs, periodic actions, NaN stop, SIGTERM."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slm_jax.training.loop import Loop, NonFiniteLossError, Periodic, average
from slm_jax.training.run_log import RunLog, Throughput, format_seconds, read_metrics
from slm_jax.training.state import TrainState


def fake_step(state, frozen, batch, rng):
    loss = jnp.asarray(batch["loss"], jnp.float32)
    scalars = {"loss": loss, "tokens": jnp.asarray(batch["tokens"], jnp.float32), "gradient_norm": loss}
    return TrainState(step=state.step + 1, trainable=state.trainable, opt_state=()), scalars


def batches(losses):
    for loss in losses:
        yield {"loss": np.asarray(loss, np.float32), "tokens": np.asarray(1 + loss, np.float32)}


def run(tmp_path, losses, *, start=0, **config):
    log = RunLog(tmp_path, total_steps=len(losses))
    loop = Loop(step=fake_step, shard=lambda batch: batch, log=log, train_steps=start + len(losses), **config)
    state = TrainState(step=jnp.asarray(start), trainable={}, opt_state=())
    return loop.run(state, {}, batches(losses), jax.random.key(0))


def test_rows_are_means_over_tokens_since_the_last_row(tmp_path):
    run(tmp_path, [1.0, 3.0, 2.0], log_period=2)
    rows = read_metrics(tmp_path, "train")
    assert [row["step"] for row in rows] == [2]
    assert rows[0]["loss"] == pytest.approx((1 * 2 + 3 * 4) / 6)
    assert rows[0]["steps_per_second"] > 0


def test_periodic_actions_happen_at_their_steps_and_at_the_end(tmp_path):
    seen = {"often": [], "on_the_way": [], "end": [], "never": []}
    periodic = [
        Periodic(2, lambda state: seen["often"].append(int(state.step))),
        Periodic(2, lambda state: seen["on_the_way"].append(int(state.step)), at_end=False),
        Periodic(0, lambda state: seen["end"].append(int(state.step))),
        Periodic(0, lambda state: seen["never"].append(int(state.step)), at_end=False),
    ]
    run(tmp_path, [1.0] * 5, start=3, periodic=periodic)
    assert seen == {"often": [4, 6, 8], "on_the_way": [4, 6], "end": [8], "never": []}


def test_nan_stops_and_names_the_step(tmp_path):
    saved = []
    with pytest.raises(NonFiniteLossError, match="nan at step 2.*learning rate"):
        run(tmp_path, [1.0, float("nan"), 1.0], log_period=3, save=saved.append)
    assert not saved


def test_nan_is_found_before_a_checkpoint_is_written(tmp_path):
    saved = []
    with pytest.raises(NonFiniteLossError):
        run(tmp_path, [float("inf"), 1.0], log_period=100, periodic=[Periodic(1, saved.append)])
    assert not saved


def run_with_sigterm(tmp_path, losses, *, during, **config):
    """SIGTERM comes during step `during`, which is run to its end."""

    def watched():
        for step, batch in enumerate(batches(losses), start=1):
            if step == during:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    log = RunLog(tmp_path, total_steps=len(losses))
    loop = Loop(step=fake_step, shard=lambda batch: batch, log=log, train_steps=len(losses), **config)
    return loop.run(TrainState(step=jnp.asarray(0), trainable={}, opt_state=()), {}, watched(), jax.random.key(0))


@pytest.mark.parametrize("during", [2, 4])
def test_sigterm_saves_and_exits_in_the_last_step_too(during, tmp_path):
    saved = []
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        run_with_sigterm(
            tmp_path, [1.0, 2.0, 3.0, 4.0], during=during, save=lambda state: saved.append(int(state.step))
        )
    assert (saved, stopped.value.code) == ([during], 143)
    assert signal.getsignal(signal.SIGTERM) == before
    assert [row["step"] for row in read_metrics(tmp_path, "train")] == [during], "what was not yet logged is logged"


def test_nan_is_found_before_sigterm_saves(tmp_path):
    saved = []
    with pytest.raises(NonFiniteLossError, match="nan at step 1"):
        run_with_sigterm(tmp_path, [float("nan"), 1.0, 1.0], during=2, save=saved.append)
    assert not saved


def test_metrics_file_is_json_lines_and_the_later_of_two_rows_counts(tmp_path):
    log = RunLog(tmp_path, total_steps=1)
    for loss in (1.0, 2.0):
        log.write(5, {"loss": loss}, kind="eval")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0] == {"step": 5, "kind": "eval", "loss": 1.0}
    assert read_metrics(tmp_path, "eval") == [{"step": 5, "kind": "eval", "loss": 2.0}]


@pytest.mark.parametrize(
    ("dropped", "told"), [({}, ""), ({"dropped_vectors": 0.0}, ""), ({"dropped_vectors": 0.47}, "47.0%")]
)
def test_the_line_of_progress_shows_what_is_cut_off(tmp_path, capsys, dropped, told):
    scalars = {"loss": 1.0, "gradient_norm": 1.0, "steps_per_second": 2.0}
    RunLog(tmp_path, total_steps=10).progress(5, scalars | dropped)
    line = capsys.readouterr().err
    assert "step      5/10  loss 1.0000" in line
    assert ("dropped" in line) == bool(told) and told in line


def test_padding_is_the_share_of_samples_that_are_not_speech():
    throughput = Throughput()
    throughput.add({"speech": np.zeros((2, 10)), "speech_length": np.array([10, 5])})
    rates = throughput.read()
    assert rates["padding"] == pytest.approx(0.25)
    assert rates["examples_per_second"] == pytest.approx(2 * rates["steps_per_second"])
    throughput.add({"speech_embeddings": np.zeros((2, 4, 3)), "speech_mask": np.array([[True] * 3 + [False]] * 2)})
    rates = throughput.read()
    assert rates["padding"] == pytest.approx(0.25)
    assert "audio_seconds_per_second" not in rates  # how long a frame is, only the encoder knows
    throughput.add({"encoder_input_tokens": np.zeros((2, 3))})
    assert set(throughput.read()) == {"steps_per_second"}


def test_average_weights_by_tokens():
    rows = [{"loss": 1.0, "tokens": 1.0, "other": 0.0}, {"loss": 4.0, "tokens": 2.0, "other": 1.0}]
    assert average(rows) == {"loss": 3.0, "tokens": 1.5, "other": 0.5}


@pytest.mark.parametrize(("seconds", "text"), [(5.0, "0:05"), (75.2, "1:15"), (3700.0, "1:01:40")])
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text
