"""`python -m slm_jax.precompile`, on devices of this machine in the place of TPUs, and by libtpu where it is."""

import json

import jax
import pytest

from slm_jax.aot import topology

TINY = ("--gin_file=test/tiny.gin", "--gin.MODEL_DIR=''", "--gin.conformer.Conformer.ctc_vocab_size=2047")


@pytest.fixture
def precompile(run_main, capsys, monkeypatch):
    """Runs the main and gives its last line; devices are eight of this machine's, whatever the topology."""
    monkeypatch.setattr(topology.Topology, "devices", lambda self: jax.devices()[: self.num_chips])

    def run(*arguments, gin_arguments=TINY):
        run_main("precompile", *gin_arguments, *arguments)
        printed = capsys.readouterr().out
        return json.loads(printed.splitlines()[-1]), printed

    return run


def test_all_steps_are_reported(precompile):
    told, printed = precompile(
        "--topology=v5e:2x4", "--steps=train,eval,decode", "--gin.partitioning.make_mesh.model=2"
    )
    assert (told["topology"], set(told["steps"])) == ("v5e:2x4", {"train", "eval greedy", "decode"})
    for name, step in told["steps"].items():
        assert name in printed
        assert step["mesh"] == {"data": 4, "fsdp": 1, "model": 2} and step["fits"]
        assert step["memory_bytes"]["total"] == sum(
            size for kind, size in step["memory_bytes"].items() if kind not in ("total", "hbm")
        )
        assert step["flops"] > 0 and step["minimum_flops"] > 0 and step["compile_seconds"] > 0
        assert step["step_seconds_bound"] == max(step["roofline_seconds"].values())
        assert 0 < step["utilisation_without_overlap"] <= step["utilisation_bound"] <= 1
    train, decode = told["steps"]["train"], told["steps"]["decode"]
    assert {"frozen parameters", "trainable parameters", "optimizer", "activations"} <= set(train["memory_bytes"])
    assert any(c["axes"] == "data" for c in train["collectives"])  # the gradients' sum
    assert not any("data" in c["axes"] for c in decode["collectives"] if c["ici_bytes"] > 1000)
    assert decode["flops"] < told["steps"]["eval greedy"]["flops"] / 40


def test_a_chip_does_at_least_its_share_of_the_minimum(precompile):
    told, _ = precompile("--topology=v5e:2x2", "--remat=none")
    step = told["steps"]["train"]
    assert 1 <= step["flops"] / step["minimum_flops"] < 1.1


def test_the_best_mesh_is_searched_for(precompile):
    told, printed = precompile("--topology=v5e:2x2", "--search", "--gin.BATCH_SIZE=4")
    tried = {row["mesh"]: row for row in told["search"]}
    assert "data=4 fsdp=1 model=1 frozen=copied" in tried and "data=1 fsdp=4 model=1 frozen=split" in tried
    fitting = [row for row in told["search"] if row["fits"]]
    assert told["best"]["step_seconds_bound"] == min(row["step_seconds_bound"] for row in fitting)
    assert "peak used" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gin.MODEL_DIR=''",), "--topology"),
        (("--topology=v5:4x4",), "unknown topology 'v5:4x4': .*v5e with 2 sizes"),
        (("--topology=v5e:2x2", "--steps=train,dance"), "--steps has dance: there are train, eval, decode"),
        (("--topology=v5e:2x4", "--gin.BATCH_SIZE=12"), "batch of 12 .* the 8 parts"),
        (
            ("--topology=v5e:2x2", "--gin.run.Training.num_microbatches=4"),
            "batch of 8, cut into 4 microbatches, .* the 4 parts .*multiple of 16",
        ),
        (("--topology=v5e:2x2", "--gin.partitioning.make_mesh.model=3"), "does not fit 4 devices: .* is 3"),
        (
            ("--topology=v5e:2x4", "--gin.partitioning.make_mesh.model=8"),
            "the axis 'heads' of .* has size 2, which is not a multiple of the 8 devices",
        ),
    ],
)
def test_bad_input_is_named(precompile, arguments, message):
    with pytest.raises(ValueError, match=message):
        precompile(*arguments)


@pytest.mark.tpu_aot
def test_libtpu_compiles_what_a_chip_runs(run_main, capsys):
    run_main("precompile", *TINY, "--topology=v5e:2x2", "--steps=decode", "--gin.partitioning.make_mesh.model=2")
    step = json.loads(capsys.readouterr().out.splitlines()[-1])["steps"]["decode"]
    assert step["chips"] == 4 and step["fits"] and step["memory_bytes"]["program"] > 0
    assert any(c["axes"] == "model" for c in step["collectives"])
