"""The command line of every main: T5X's gin flags, and what a gin run writes about itself."""

import copy
import difflib
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gin
import jax
from absl import app, flags
from absl import logging as absl_logging

from slm_jax.data import pipeline, sources, vocabularies
from slm_jax.inference import LoadedModel
from slm_jax.resources import gin_folder
from slm_jax.training import host_memory, hosts
from slm_jax.training.bundle import BundleManifest, load_bundle
from slm_jax.training.run import Training
from slm_jax.training.run_interfaces import Configuration
from slm_jax.weights import foundation

FLAGS = flags.FLAGS

flags.DEFINE_multi_string("gin_file", [], "A gin file; give the flag again for more, later files win.")
flags.DEFINE_multi_string("gin_bindings", [], "A binding, as 'NAME = value'; --gin.NAME=value is the short form.")
flags.DEFINE_list("gin_search_paths", [], "Folders where gin files are looked for, before slm_jax's own.")
flags.DEFINE_string("tfds_data_dir", None, "Where TensorFlow Datasets are read and prepared.")
flags.DEFINE_list("seqio_additional_cache_dirs", [], "Folders of SeqIO's caches, read where USE_CACHED_TASKS is True.")
flags.DEFINE_bool("dry_run", False, "Print the parameter table and stop: nothing is allocated, read or written.")
flags.DEFINE_string("coordinator_address", None, "Of a job of several processes: HOST:PORT of the first one.")
flags.DEFINE_integer("num_processes", None, "How many processes the job has.")
flags.DEFINE_integer("process_id", None, "Which of them this is, counted from 0.")
flags.DEFINE_bool("multihost", False, "Ask the cluster (a TPU pod, SLURM) for these three.")
flags.DEFINE_integer("join_timeout", hosts.JOIN_SECONDS, "Seconds to wait for the other processes at the start.")
flags.DEFINE_float("step_timeout", 0.0, "End the process if a step, or those between two logs, take more seconds.")


def rewrite_arguments(arguments: Sequence[str]) -> list[str]:
    """--gin.NAME=value becomes --gin_bindings=NAME = value, as in T5X.

    Raises:
      ValueError: a --gin. argument without '='.
    """
    rewritten = []
    for argument in arguments:
        if not argument.startswith("--gin."):
            rewritten.append(argument)
            continue
        name, equals, value = argument.removeprefix("--gin.").partition("=")
        if not equals:
            raise ValueError(f"{argument} has no value: write --gin.{name or 'NAME'}=VALUE (strings in quotes)")
        rewritten.append(f"--gin_bindings={name} = {value}")
    return rewritten


def parse_configuration(files: Sequence[str] = (), bindings: Sequence[str] = ()) -> None:
    """Parses the gin files and bindings of the command line, or the given ones where it names none.

    Raises:
      ValueError: a file, a name or a macro is not known.
    """
    # gin also takes the folder of a file for a Python package, and fails on one without code: looking for
    # runs/train.gin it would find the runs/ of a user before that of slm_jax.
    gin.config._FILE_READERS[:] = [reader for reader in gin.config._FILE_READERS if reader[0] is open]
    for folder in [*FLAGS.gin_search_paths, ".", str(gin_folder())]:
        gin.add_config_file_search_path(folder)
    gin.parse_config_files_and_bindings(FLAGS.gin_file or files, None, finalize_config=False)
    check_macros(FLAGS.gin_bindings)
    gin.parse_config_files_and_bindings(None, [*bindings, *FLAGS.gin_bindings])
    if FLAGS.tfds_data_dir:
        sources.use_tfds_folder(FLAGS.tfds_data_dir)
    sources.use_cache_folders(FLAGS.seqio_additional_cache_dirs)


def check_macros(bindings: Sequence[str]) -> None:
    """Refuses bindings of macros that nothing uses: gin takes them in silence, so a slip of the pen would do nothing.

    Raises:
      ValueError: neither the files that were parsed nor another binding knows the macro.
    """
    text = "\n".join([gin.config_str(), *(binding.partition("=")[2] for binding in bindings)])
    known = {*re.findall(r"^(\w+) =", text, re.MULTILINE), *re.findall(r"%(\w+)", text)}
    for binding in bindings:
        name = binding.partition("=")[0].strip()
        if name.isidentifier() and name not in known:
            near = difflib.get_close_matches(name, known)
            advice = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(known))}"
            raise ValueError(f"the gin files do not use {name}: {advice}")


def parse_configuration_of(manifest: BundleManifest) -> None:
    """Parses the configuration that a bundle was trained with, unless the command line names one.

    A bundle may come from anywhere, and gin can call any function. So only files that ship with slm_jax are read, and
    only bindings of plain values.

    Raises:
      ValueError: the bundle was trained with other files or bindings; the user has to name them.
    """
    files = [file.removeprefix("gin/") for file in manifest.gin_files]
    root = gin_folder().resolve()
    foreign = [file for file in files if root not in (root / file).resolve().parents or not (root / file).is_file()]
    foreign += [binding for binding in manifest.gin_bindings if any(mark in binding for mark in "@\n")]
    if not FLAGS.gin_file and (foreign or not files):
        raise ValueError(
            f"the bundle was trained with {list(manifest.gin_files)} and {list(manifest.gin_bindings)}, which do not"
            " all come with slm_jax: name its gin files with --gin_file and its bindings with --gin.NAME=value"
        )
    # A training file may require a MODEL_DIR; nothing is written there now.
    parse_configuration(files, ("MODEL_DIR = ''",) if FLAGS.gin_file else manifest.gin_bindings)


def load_model(directory: str) -> LoadedModel:
    """The bundle on its frozen parts, by its own configuration or that of the command line."""
    manifest = load_bundle(directory).manifest
    parse_configuration_of(manifest)
    training = gin.get_configurable(Training)()
    return LoadedModel.load(
        training,
        directory=directory,
        vocabulary=checked_vocabulary(training),
        task_feature_lengths=macro("TASK_FEATURE_LENGTHS"),
        method=macro("DECODING"),
    )


def macro(name: str) -> Any:
    """The value of a macro; if it is a call, its result."""
    return copy.deepcopy(gin.query_parameter(f"{name}/gin.macro.value"))  # gin calls a reference when it is copied


def checked_vocabulary(training: Training) -> vocabularies.Vocabulary:
    """The vocabulary of MIXTURE_OR_TASK_NAME.

    Raises:
      ValueError: there is no such task, or its vocabulary is not the language model's.
    """
    task = pipeline.get_mixture_or_task(macro("MIXTURE_OR_TASK_NAME"))
    vocabulary = task.output_features["targets"].vocabulary
    language_model = getattr(training.objective.model, "lm", None)
    if language_model is not None:
        vocabularies.check_vocabulary(vocabulary, language_model.vocab_size)
    if found := training.settings_identity().get("vocabulary"):
        for component, source in training.sources.items():
            foundation.check_vocabulary(source, component=component, vocabulary=found)
    return vocabulary


def command_line() -> Configuration:
    """The configuration as a run records it."""
    return Configuration(gin.operative_config_str, tuple(FLAGS.gin_file), tuple(FLAGS.gin_bindings), FLAGS.step_timeout)


def set_up_jax() -> None:
    """Keeps compiled programs in a folder, so that the second run of the same shapes starts at once.

    On CPUs memory that is freed is kept too. This asks JAX for its devices: call it after `join_job`.
    """
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or pathlib.Path.home() / ".cache" / "slm_jax" / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    if jax.default_backend() == "cpu":
        host_memory.keep_freed_memory()


def join_job() -> None:
    """Joins the other processes that the flags tell of."""
    hosts.join(
        coordinator_address=FLAGS.coordinator_address,
        num_processes=FLAGS.num_processes,
        process_id=FLAGS.process_id,
        multihost=FLAGS.multihost,
        timeout=FLAGS.join_timeout,
    )


def stay_alone() -> None:
    """Refuses flags that tell of other processes, for mains that know what to do with one only.

    Raises:
      ValueError: there is such a flag.
    """
    given = [
        name for name in ("coordinator_address", "num_processes", "process_id", "multihost") if FLAGS[name].present
    ]
    if given:
        raise ValueError(f"this program runs in one process: leave out --{' and --'.join(given)}")


def run(main: Callable[[Sequence[str]], None], *, join: Callable[[], None] = join_job) -> None:
    """Runs a main, given what follows its flags; errors of the user's making end it with one message and code 1.

    Args:
      main: given what follows the flags.
      join: how it gets along with other processes: `join_job` or `stay_alone`.
    """

    def parse(arguments: Sequence[str]) -> list[str]:
        return FLAGS(rewrite_arguments(arguments))

    def start(arguments: Sequence[str]) -> None:
        if not FLAGS["verbosity"].present:  # --verbosity=0 shows what the libraries note
            absl_logging.set_verbosity(absl_logging.WARNING)
        try:
            with hosts.leave_at_errors():
                join()
                main(arguments[1:])
        except (OSError, ValueError) as error:
            if FLAGS.pdb_post_mortem or FLAGS.run_with_pdb:
                raise
            sys.exit(f"error: {error}")

    app.run(start, flags_parser=parse)
