"""Every gin file that ships: a header that says what to set, valid syntax, and names that exist."""

import copy
import importlib
import json
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import seqio
from gin import config_parser

from slm_jax import trees
from slm_jax.data import pipeline
from slm_jax.data.vocabularies import SCENES_MODEL
from slm_jax.models.interfaces import EncoderOutput
from slm_jax.resources import gin_folder
from slm_jax.tasks.registration import register_once
from slm_jax.training import restore
from slm_jax.training.run import Training

GIN = gin_folder()
FILES = sorted(GIN.rglob("*.gin"))
# One of these words opens the part of a header that a reader needs.
HEADER_WORDS = {
    "experiments": ("command",),
    **dict.fromkeys(("models", "tasks", "runs"), ("required", "commonly overridden", "defines")),
}


def name_of(path: pathlib.Path) -> str:
    return str(path.relative_to(GIN))


def needs_t5x(path: pathlib.Path) -> bool:
    return name_of(path).startswith("runs/t5x/") or bool(re.search(r"^\s*(from|import) t5x\b", path.read_text(), re.M))


def parsed_where_possible(path: pathlib.Path):
    marks = [pytest.mark.t5x] if needs_t5x(path) else []
    return pytest.param(path, id=name_of(path), marks=marks)


class Anything(config_parser.ParserDelegate):
    """Accepts any reference and any macro: what is left is gin's grammar."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        return scoped_configurable_name, evaluate

    def macro(self, macro_name):
        return macro_name


@pytest.fixture
def clean_gin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty gin configuration, with includes relative to the folder of gin files."""
    monkeypatch.chdir(GIN)
    gin.clear_config()
    yield
    gin.clear_config()


def header(path: pathlib.Path) -> str:
    """The comment lines at the top of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    first_other = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(lines[:first_other])


def test_there_are_gin_files():
    assert FILES, f"no gin files below {GIN}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_header_says_what_to_set(path: pathlib.Path):
    text = header(path).lower()
    assert text, "open the file with a comment: what it configures, what is required, what is commonly overridden"
    words = HEADER_WORDS.get(path.relative_to(GIN).parts[0], ("",))
    assert any(word in text for word in words), f"the header mentions none of {words}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_syntax(path: pathlib.Path):
    with path.open(encoding="utf-8") as file:
        assert list(config_parser.ConfigParser(file, Anything())), "the file has no statements"


@pytest.mark.parametrize("path", [parsed_where_possible(path) for path in FILES])
def test_every_name_exists(path: pathlib.Path, clean_gin: None, monkeypatch: pytest.MonkeyPatch):
    """Parsing imports the modules named, follows includes, and refuses unknown configurables and parameters."""
    if "import __main__" in path.read_text():  # of t5x.train and its like
        monkeypatch.setitem(sys.modules, "__main__", importlib.import_module(f"t5x.{path.stem}"))
    gin.parse_config_file(str(path))


def build(macro: str):
    """What a macro of the parsed configuration stands for; copying a gin reference calls it."""
    return copy.deepcopy(gin.query_parameter(f"{macro}/gin.macro.value"))


MACROS = {"lms": "LM", "encoders": "SPEECH_ENCODER", "adapters": "ADAPTER"}
MODEL_FILES = [path for path in FILES if path.parent.name in MACROS]


INCOMPLETE = ("t5_1_1.gin", "hugging_face.gin", "t5x_checkpoint.gin")
"""Files that need a size or a folder before they describe a model."""


@pytest.mark.parametrize("path", [path for path in MODEL_FILES if path.name not in INCOMPLETE], ids=name_of)
def test_a_model_file_builds_under_eval_shape(path: pathlib.Path, clean_gin: None):
    gin.parse_config_file(str(path))
    module = build(MACROS[path.parent.name])
    tokens = jax.ShapeDtypeStruct((1, 4), "int32")
    mask = jax.ShapeDtypeStruct((1, 4), "bool")
    scores = jax.ShapeDtypeStruct((1, 4, 11), "float32")
    inputs = {
        "lms": lambda: (jax.ShapeDtypeStruct((1, 4, module.width), "float32"), mask, tokens),
        "encoders": lambda: (jax.ShapeDtypeStruct((1, 3200), "float32"), jax.ShapeDtypeStruct((1,), "int32")),
        "adapters": lambda: (EncoderOutput(jax.ShapeDtypeStruct((1, 4, 8), "float32"), mask, scores),),
    }[path.parent.name]()
    # The one adapter that embeds is of the small system, whose language model is 192 wide.
    embed = (lambda tokens: jnp.zeros((*tokens.shape, 192)),) if path.parent.name == "adapters" else ()
    shapes = jax.eval_shape(lambda rng, *arrays: module.init(rng, *arrays, *embed), jax.random.key(0), *inputs)
    assert sum(trees.count(shapes["params"]).values()) > 0


EXPERIMENTS = [path for path in FILES if path.relative_to(GIN).parts[0] == "experiments"]
RUNS = [*EXPERIMENTS, GIN / "test" / "tiny.gin"]
TASKS = [path for path in FILES if path.parent.name == "tasks" and "MIXTURE_OR_TASK_NAME =" in path.read_text()]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_an_experiment_says_its_command_cost_and_score(path: pathlib.Path):
    for word in ("COMMAND", "COST", "SCORE"):
        assert re.search(rf"^# +{word} +\S", header(path), re.MULTILINE), f"the header has no {word}"


SMOLLM2 = dict(
    model_type="llama", vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
    num_attention_heads=9, num_key_value_heads=3, hidden_act="silu", tie_word_embeddings=True, rope_theta=100_000.0,
    rms_norm_eps=1e-5,
)  # fmt: skip
WHISPER_BASE = dict(
    model_type="whisper", d_model=512, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2048,
    num_mel_bins=80,
)  # fmt: skip


@pytest.fixture(scope="module")
def open_weights(tmp_path_factory, write_tokenizer) -> list[str]:
    """Bindings of folders that describe the models that experiments take from elsewhere, without their weights."""
    folders = {"ENCODER_FOLDER": WHISPER_BASE, "LM_FOLDER": SMOLLM2, "CORPUS": {}}
    bindings = []
    for name, config in folders.items():
        folder = tmp_path_factory.mktemp(name.lower())
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "preprocessor_config.json").write_text("{}")
        (folder / "train.tsv").write_text("audio\ttext\n")
        safetensors.numpy.save_file({}, folder / "model.safetensors")
        write_tokenizer(folder)
        bindings.append(f"{name} = '{folder}'")
    return bindings


def training_of(path: pathlib.Path, bindings: Sequence[str] = ()) -> Training:
    gin.parse_config_files_and_bindings([str(path)], ["MODEL_DIR = 'unused'", "MANIFEST = 'unused'", *bindings])
    return gin.get_configurable(Training)()


@pytest.mark.parametrize("path", RUNS, ids=name_of)
def test_an_experiment_builds_and_decides_every_parameter(path: pathlib.Path, clean_gin: None, open_weights):
    training = training_of(path, [binding for binding in open_weights if binding.split()[0] in path.read_text()])
    counts = json.loads(training.describe().splitlines()[-1])
    total = sum(component["parameters"] for component in counts["components"].values())
    assert counts["trainable"] + counts["frozen"] == total
    assert counts["trainable"] > 0
    assert set(training.sources) <= set(counts["components"])


@pytest.mark.parametrize("path", TASKS, ids=name_of)
def test_a_task_file_registers_a_task(path: pathlib.Path, clean_gin: None, tmp_path: pathlib.Path):
    manifest = tmp_path / "own.tsv"
    manifest.write_text("audio\ttext\na.wav\thello\n")
    required = {"MANIFEST": manifest, "VOCABULARY_PATH": SCENES_MODEL, "SOURCE_LANGUAGE": "de"}
    required |= dict.fromkeys(("COMMON_VOICE", "COVOST2", "CLIPS"), tmp_path)
    bindings = [f"{name} = '{value}'" for name, value in required.items()]
    gin.parse_config_files_and_bindings(["tasks/sentencepiece_vocabulary.gin", str(path)], bindings)
    name = build("MIXTURE_OR_TASK_NAME")
    try:
        task = pipeline.get_mixture_or_task(name)
        assert {"speech", "inputs", "targets"} <= set(task.output_features)
        assert set(build("TASK_FEATURE_LENGTHS")) == {"speech", "inputs", "targets"}
        assert "train" in task.splits
    finally:
        seqio.TaskRegistry.remove(name)
        register_once.settings.pop(name)


def test_after_pretraining_nothing_but_the_ctc_head_is_new(clean_gin: None):
    def zeros(shapes):
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)

    pretrained = training_of(GIN / "experiments" / "scenes_best_rq.gin").shapes
    gin.clear_config()
    training = training_of(GIN / "experiments" / "scenes_ctc_from_best_rq.gin")
    report = restore.assemble_parameters(
        training.shapes,
        trainable_patterns=training.trainable,
        sources=training.sources,
        initial=restore.Supply("pretraining", zeros(pretrained)),
        init_fn=lambda paths: zeros({path: trees.flatten(training.shapes)[path] for path in paths}),
        allow_random=training.allow_random,
        allow_unexpected=training.allow_unexpected,
    ).report
    names = ("bias", "kernel")
    assert report.paths("initialised") == [f"speech_encoder/ctc_head/{name}" for name in names]
    assert report.paths("unexpected") == [f"codebook_heads/{name}" for name in names]


def test_the_papers_system_has_the_papers_size(clean_gin: None):
    counts = json.loads(training_of(GIN / "experiments" / "slm_usm2b_mt5xxl.gin").describe().splitlines()[-1])
    assert counts["trainable"] == pytest.approx(156e6, rel=0.01)
    assert counts["trainable"] / counts["frozen"] == pytest.approx(0.01, abs=0.001)
    assert counts["components"]["lm"]["parameters"] == pytest.approx(12.9e9, rel=0.01)
    assert counts["components"]["speech_encoder"]["parameters"] == pytest.approx(2e9, rel=0.1)
