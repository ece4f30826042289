"""Where every parameter comes from when a run starts; nothing is silently left random.

The order: the run's own checkpoint, then INITIAL_CHECKPOINT, then each component's own source; what is left is
initialised if it is trained, and an error if it is frozen.
"""

import dataclasses
import io
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
from rich.console import Console
from rich.table import Table

from slm_jax import trees
from slm_jax.training import bundle as bundles
from slm_jax.training import checkpoints, hosts
from slm_jax.training.bundle import BundleManifest
from slm_jax.typing import PyTree
from slm_jax.weights import fingerprints, foundation, layouts

Initialise = Callable[[Collection[str]], Mapping[str, Any]]
"""The initial values of the parameters of the given paths, by path."""

Status = Literal["loaded", "initialised", "unexpected", "missing"]


class RestoreError(ValueError):
    """The parameters of a model could not be put together; the message holds every reason and the report."""


@dataclasses.dataclass(frozen=True)
class Supply:
    """Parameters at hand.

    Attributes:
      origin: where they come from, for people.
      parameters: nested, keyed by component first.
      manifest: what they were trained on, if known.
    """

    origin: str
    parameters: PyTree
    manifest: BundleManifest | None = None


@dataclasses.dataclass(frozen=True)
class ReportEntry:
    """One line of a report: parameters of one component that fared alike.

    Attributes:
      component: such as 'lm'.
      status: 'missing' ones are what makes the report an error; 'unexpected' ones were not loaded.
      origin: where from.
      trained: whether they are trained.
      sizes: number of values of each parameter, by path.
    """

    component: str
    status: Status
    origin: str
    trained: bool
    sizes: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class RestoreReport:
    """What became of every parameter of the model, and of every one that was offered.

    Attributes:
      entries: by component.
      problems: reasons to stop; none in a report of parameters that were put together.
    """

    entries: tuple[ReportEntry, ...]
    problems: tuple[str, ...] = ()

    def paths(self, status: str) -> list[str]:
        """Paths of all parameters of one status."""
        return sorted(path for entry in self.entries if entry.status == status for path in entry.sizes)

    def table(self) -> str:
        """The report for people, one line an entry."""
        table = Table()
        for name in ("component", "", "from", "", "tensors", "parameters"):
            table.add_column(name, justify="right" if name in ("tensors", "parameters") else "left", overflow="fold")
        for entry in self.entries:
            kind = "" if entry.status == "unexpected" else ("trained" if entry.trained else "frozen")
            numbers = str(len(entry.sizes)), f"{sum(entry.sizes.values()):,}"
            table.add_row(entry.component, entry.status, entry.origin, kind, *numbers)
        text = io.StringIO()
        Console(file=text, width=120, color_system=None).print(table)
        return text.getvalue()


@dataclasses.dataclass(frozen=True)
class AssembledParameters:
    """A whole model.

    Attributes:
      parameters: nested, in the dtypes of the shapes; on the host, except what is initialised or from a checkpoint.
      report: where each came from.
    """

    parameters: PyTree
    report: RestoreReport


def assemble_parameters(
    shapes: PyTree,
    *,
    trainable_patterns: Sequence[str],
    sources: Mapping[str, str | os.PathLike[str]],
    checkpoint: Supply | None = None,
    initial: Supply | None = None,
    init_fn: Initialise | None = None,
    allow_random: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    place: foundation.Place = foundation.leave_on_host,
) -> AssembledParameters:
    """Every parameter of the model, each from the first place in the order that has it.

    Args:
      shapes: nested jax.ShapeDtypeStruct of the whole model, keyed by component first, without boxes.
      trainable_patterns: regular expressions over whole paths; all other parameters are frozen.
      sources: for each frozen component, what `slm_jax.weights.foundation.load_component` reads: a folder, a file,
        'shipped' or a checkpoint of another program. A trained component may have one too, to start from.
      checkpoint: the trainable parameters of the run's own checkpoint, all of them.
      initial: INITIAL_CHECKPOINT, see `read_initial`.
      init_fn: see `initialiser`; None where nothing may be initialised, as for inference.
      allow_random: paths that may be initialised although they are frozen, or are missing in a component that the
        initial checkpoint holds in part.
      allow_unexpected: paths of the initial checkpoint that may stay unused.
      place: what is done with a parameter of another program's checkpoint as soon as it is read, given its whole path.

    Raises:
      RestoreError: a frozen parameter would be random, a checkpoint does not fit, and so on: all reasons at once.
      ValueError: a pattern matches nothing, or a source is named for a component that the model does not have.
      FileNotFoundError, slm_jax.weights.safetensors_io.WeightFileError: a source cannot be read.
    """
    expected = trees.flatten(shapes)
    trees.check_coverage(expected, (*trainable_patterns, *allow_random))
    _check_components(sources, shapes)
    assembly = _Assembly(
        expected=expected,
        trainable={path for path in expected if trees.matches(path, trainable_patterns)},
        allow_random={path for path in expected if trees.matches(path, allow_random)},
    )
    if checkpoint is not None:
        assembly.add_checkpoint(checkpoint)
    if initial is not None:
        assembly.add_initial(initial, allow_unexpected)
    for component, source in sources.items():
        assembly.add_source(component, source, shapes[component], place)
    to_initialise = assembly.decide_rest(initial, can_initialise=init_fn is not None)
    report = assembly.report()
    if report.problems:
        raise RestoreError("\n  ".join(["the model cannot be put together:", *report.problems]) + "\n" + report.table())
    if init_fn is not None and to_initialise:
        assembly.add_initialised(init_fn(to_initialise), to_initialise)
    return AssembledParameters(
        parameters=trees.unflatten({path: assembly.values[path] for path in expected}), report=report
    )


def initialiser(init: Callable[[], PyTree]) -> Initialise:
    """Initial values of some parameters of a model, without computing or holding the others.

    Args:
      init: gives all parameters, boxed or not, such as lambda: model.init(rng, batch)['params'].
    """

    def init_fn(paths: Collection[str]) -> Mapping[str, Any]:
        def chosen() -> dict[str, jax.Array]:
            flat = trees.flatten(nn.meta.unbox(init()))
            return {path: flat[path] for path in paths}

        return jax.jit(chosen)()  # what is not returned is not computed

    return init_fn


def read_initial(path: str | os.PathLike[str]) -> Supply:
    """Trained parameters to start from: a bundle, a MODEL_DIR, a folder of checkpoints or one step of them.

    A MODEL_DIR's bundle comes before its checkpoints.

    Raises:
      FileNotFoundError: there is neither.
      slm_jax.training.bundle.BundleError, slm_jax.training.checkpoints.CheckpointReadError: it is damaged.
    """
    if "://" not in os.fspath(path) and bundles.find_bundle(path) is not None:
        bundle = bundles.load_bundle(path)
        return Supply(f"bundle {path}, step {bundle.manifest.step}", bundle.trainable, bundle.manifest)
    folder, step = _checkpoint_location(path)
    read = checkpoints.read_trainable(folder, step=step)
    manifest = BundleManifest.from_json(read.manifest) if read.manifest else None
    return Supply(f"checkpoint {path}, step {read.step}", read.trainable, manifest)


def frozen_fingerprints(params: PyTree, *, trainable_patterns: Sequence[str]) -> dict[str, str]:
    """Fingerprints of the frozen parameters by component: what a bundle's manifest records of the weights."""
    _, frozen = trees.partition(params, trainable_patterns)
    return {component: fingerprints.fingerprint(jax.tree.map(hosts.gather, tree)) for component, tree in frozen.items()}


def check_initial(initial: Supply, assembled: AssembledParameters, *, identity: Mapping[str, str]) -> None:
    """Refuses an initial checkpoint that was trained on other parts than those it now meets.

    Compares the components that were frozen when it was trained, whether or not they still are; parameters that are
    new since then do not count.

    Args:
      initial: as given to `assemble_parameters`; one without a manifest is not checked.
      assembled: the model before its first update.
      identity: fingerprints of what is no parameter, as in the manifest: 'vocabulary', 'front_end'.

    Raises:
      slm_jax.training.bundle.IncompatibleBundleError: some part differs; all are listed.
    """
    if initial.manifest is None:
        return
    new = set(assembled.report.paths("initialised"))
    known = {path: leaf for path, leaf in trees.flatten(assembled.parameters).items() if path not in new}
    frozen = frozen_fingerprints(trees.unflatten(known), trainable_patterns=initial.manifest.trainable_patterns)
    bundles.check_compatible(initial.manifest, {**identity, **frozen})


def _checkpoint_location(path: str | os.PathLike[str]) -> tuple[str, int | None]:
    text = os.fspath(path).rstrip("/")
    parent, _, name = text.rpartition("/")
    if name.isdigit() and int(name) in checkpoints.saved_steps(parent or "."):
        return parent or ".", int(name)
    for folder in (text, f"{text}/{checkpoints.FOLDER}"):
        if checkpoints.saved_steps(folder):
            return folder, None
    raise FileNotFoundError(f"{path} is not a bundle, a MODEL_DIR, a folder of checkpoints, nor one checkpoint")


def _check_components(sources: Mapping[str, Any], shapes: PyTree) -> None:
    unknown = sorted(sources.keys() - shapes.keys())
    if unknown:
        raise ValueError(f"there are sources for {unknown}, but the model's components are {sorted(shapes)}")


def _component(path: str) -> str:
    return path.split(trees.SEPARATOR)[0]


@dataclasses.dataclass
class _Assembly:
    """Parameters on their way to a whole model."""

    expected: Mapping[str, jax.ShapeDtypeStruct]
    trainable: Collection[str]
    allow_random: Collection[str]
    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    facts: dict[str, tuple[Status, str]] = dataclasses.field(default_factory=dict)
    unexpected: dict[str, tuple[str, int]] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)

    def add_checkpoint(self, supply: Supply) -> None:
        found = trees.flatten(supply.parameters)
        lines = layouts.layout_problems({path: self.expected[path] for path in self.trainable}, found)
        self.problems += [f"{supply.origin}: {line}" for line in lines]
        self._take(found, supply.origin)

    def add_initial(self, supply: Supply, allow_unexpected: Sequence[str]) -> None:
        found = trees.flatten(supply.parameters)
        surplus = sorted(found.keys() - self.expected.keys())
        self.unexpected |= {path: (supply.origin, math.prod(found[path].shape)) for path in surplus}
        allowed = {path for path in surplus if trees.matches(path, allow_unexpected)}
        judged = {path: leaf for path, leaf in found.items() if path not in allowed}
        lines = layouts.layout_problems(self.expected, judged, optional=self.expected.keys())
        self.problems += [f"{supply.origin}: {line}" for line in lines]
        self._take(found, supply.origin)

    def add_source(
        self, component: str, source: str | os.PathLike[str], shapes: PyTree, place: foundation.Place
    ) -> None:
        prefix = component + trees.SEPARATOR
        own = [path for path in self.expected if path.startswith(prefix)]
        if all(path in self.values for path in own):
            return
        optional = {path.removeprefix(prefix) for path in own if path in self.trainable or path in self.allow_random}
        loaded = foundation.load_component(
            source,
            component=component,
            shapes=shapes,
            optional=optional,
            place=lambda path, value: place(prefix + path, value),
        )
        self._take(trees.flatten({component: loaded.parameters}), str(source))

    def add_initialised(self, found: Mapping[str, Any], paths: Collection[str]) -> None:
        lines = layouts.layout_problems({path: self.expected[path] for path in paths}, found)
        if lines:
            raise RestoreError("\n  ".join(["the initialiser gave other parameters than it was asked for:", *lines]))
        self._take(found, "")

    def decide_rest(self, initial: Supply | None, *, can_initialise: bool) -> list[str]:
        """Sorts what no place has into initialised and missing; gives the former."""
        rest = [path for path in self.expected if path not in self.values]
        frozen = [path for path in rest if path not in self.trainable and path not in self.allow_random]
        self._miss(frozen, "frozen parameters would be random, since neither a checkpoint nor a source has them")
        begun = initial.parameters.keys() if initial else ()
        partial = [p for p in rest if _component(p) in begun and p not in {*frozen, *self.allow_random}]
        self._miss(partial, "INITIAL_CHECKPOINT has only a part of a component; list in allow_random what may be new")
        free = [path for path in rest if path not in {*frozen, *partial}]
        if not can_initialise:
            self._miss(free, "nothing may be initialised here, but no checkpoint or source has these")
            return []
        self.facts |= {path: ("initialised", "") for path in free}
        return free

    def report(self) -> RestoreReport:
        groups: dict[tuple[str, Status, str, bool], dict[str, int]] = {}
        for path, leaf in self.expected.items():
            key = _component(path), *self.facts[path], path in self.trainable
            groups.setdefault(key, {})[path] = math.prod(leaf.shape)
        for path, (origin, size) in self.unexpected.items():
            groups.setdefault((_component(path), "unexpected", origin, False), {})[path] = size
        entries = (ReportEntry(*key, sizes) for key, sizes in groups.items())
        return RestoreReport(tuple(sorted(entries, key=lambda entry: entry.component)), tuple(self.problems))

    def _miss(self, paths: Sequence[str], why: str) -> None:
        self.facts |= {path: ("missing", "") for path in paths}
        if paths:
            self.problems.append(f"{why} ({len(paths)}): {layouts.enumerate_names(sorted(paths))}")

    def _take(self, found: Mapping[str, Any], origin: str) -> None:
        for path, value in found.items():
            if path in self.expected and path not in self.values:
                dtype = self.expected[path].dtype
                self.values[path] = value if value.dtype == dtype else value.astype(dtype)
                self.facts.setdefault(path, ("loaded", origin))
