"""Tasks and mixtures over the spoken scenes (see `slm_jax.tasks.spoken_scenes`).

One task for each family of instructions, named after the configuration of the dataset and the family:

    scenes_<config>_<family>                    speech, then the instruction; quickstart, study, full, claims or tiny
    scenes_text_<family>                        the transcript in place of speech, from the text configuration
    scenes_<config>_text_<family>               the same from the configurations claims and tiny
    <any of these>_unseen_wording               with a wording of the instruction that is never trained on
    scenes_<config>_bias_<size>                 with another number of names in the list than 10: 1, 50, 100
    scenes_<config>_bias_<size>_without         with a list that lacks the name that is spoken
    scenes_<config>_<family>_taught             with what a teacher reads, for distillation: families of scenes_<config>
    scenes_drill_transcribe                     words and names in random order; the speech encoder learns from them too
    scenes_chorus_transcribe                    sentences in more voices; and scenes_chorus_drill_transcribe
    scenes_neural_transcribe                    sentences in neural voices, in parts: NEURALS, and words: NEURAL_DRILLS
    scenes_clear_drill_transcribe               words in the voices that are clearest
    scenes_<config>_transcribe_silence          with silence around the speech: full, claims, tiny and these
    scenes_text_span_corruption                 sentences with gaps; also scenes_tiny_text_span_corruption

and the mixtures

    scenes_quickstart, _study, _tiny            transcribe and translate_de
    scenes_full                                 transcribe, translate_de and translate_es
    scenes_quickstart_instructed                these and six more families
    scenes_<config>_taught                      scenes_quickstart, _study, _tiny or _full with what a teacher reads
    scenes_encoder                              transcribe of full, drill, chorus and chorus_drill, with silence
    scenes_encoder_neural                       the same with clear_drill and neural_drill, mostly words
    scenes_encoder_sentences                    of full, chorus, drill, clear_drill and neural_drill, mostly sentences
    scenes_encoder_again                        of all of these and neural_drill_2, words and sentences alike
    scenes_encoder_longer                       with neural_drill_3 besides, mostly sentences
    scenes_encoder_last                         with sentences in neural voices besides
    scenes_text_all, scenes_tiny_text_all       every family in writing, and span corruption
    scenes_text_short_lists, scenes_text_lists  the same, half of it lists of names: up to ten, or any length

Importing this module registers them all and reads nothing. Splits are train, validation and test.
"""

import functools
import itertools

import seqio

from slm_jax.data import preprocessors
from slm_jax.data.preprocessors import Wording
from slm_jax.data.prompts import PromptTemplate
from slm_jax.data.sources import TfdsSource
from slm_jax.data.vocabularies import SCENES_MODEL, SCENES_SENTINELS
from slm_jax.tasks.misheard import mishear_transcripts
from slm_jax.tasks.name_lists import SHORT_LISTS, NameList, draw_names
from slm_jax.tasks.registration import Form, TaskDefinition, metrics_for, register
from slm_jax.tasks.silence import surround_with_silence
from slm_jax.tasks.spoken_scenes.builder import SpokenScenes
from slm_jax.tasks.spoken_scenes.families import FAMILIES, FAMILY, Family

SPLITS = {"train": "train", "validation": "validation", "test": "test"}
SPEECH_CONFIGS = ("quickstart", "study", "full", "claims", "tiny")
NEURAL_DRILLS = ("neural_drill", "neural_drill_2", "neural_drill_3")
NEURALS = ("neural", "neural_2")
ENCODER_CONFIGS = ("drill", "chorus", "chorus_drill", *NEURALS, *NEURAL_DRILLS, "clear_drill")
"""Spoken for the encoder alone; it hears `full` too."""
TEXT_CONFIGS = ("text", "claims", "tiny")
SPOKEN = (Form.SPEECH, Form.TAUGHT)
TEN_NAMES = NameList()
LIST_SIZES = (1, 10, 50, 100)

SPEECH_MIXTURES = {
    "quickstart": ("transcribe", "translate_de"),
    "study": ("transcribe", "translate_de"),
    "tiny": ("transcribe", "translate_de"),
    "full": ("transcribe", "translate_de", "translate_es"),
}
INSTRUCTED = ("transcribe", "translate_de", "question", "negation", "summary", "object", "place", "time")
"""Families of a mixture that trains more instructions with speech."""
ENCODER_RATES = {
    "scenes_encoder": {"full": 2.0, "drill": 1.8, "chorus": 0.5, "chorus_drill": 0.5},
    "scenes_encoder_neural": {"full": 1.3, "drill": 0.7, "chorus_drill": 0.2, "clear_drill": 1.0, "neural_drill": 1.6},
    "scenes_encoder_sentences": {"full": 2.0, "chorus": 0.3, "drill": 0.2, "clear_drill": 0.5, "neural_drill": 1.0},
    "scenes_encoder_again": {
        "full": 2.0,
        "chorus": 0.4,
        "drill": 0.8,
        "chorus_drill": 0.2,
        "clear_drill": 0.3,
        "neural_drill": 0.5,
        "neural_drill_2": 0.8,
    },
    "scenes_encoder_longer": {
        "full": 2.4,
        "chorus": 0.3,
        "drill": 0.4,
        "clear_drill": 0.2,
        "neural_drill": 0.4,
        "neural_drill_2": 0.5,
        "neural_drill_3": 0.8,
    },
    "scenes_encoder_last": {
        "full": 2.0,
        "chorus": 0.3,
        "drill": 0.3,
        "clear_drill": 0.2,
        "neural_drill": 0.3,
        "neural_drill_2": 0.4,
        "neural_drill_3": 0.6,
        "neural": 0.5,
        "neural_2": 0.8,
    },
}
"""Mixtures of transcription for the speech encoder, with silence around the speech: shares of their datasets."""
TEXT_RATES = {"transcribe": 2.0, "bias": 2.0, "translate_de": 2.0, "translate_es": 2.0, "span_corruption": 2.0}
"""Shares in the text mixtures; 1 for families that are not listed."""
LIST_RATE = 24.0
"""Of `bias` in the mixture of lists, as much as all others."""

# Lazy: the file is opened when a task is used.
VOCABULARY = seqio.SentencePieceVocabulary(str(SCENES_MODEL), extra_ids=SCENES_SENTINELS)


def template_of(family: Family) -> PromptTemplate:
    """A family's wordings, trained and unseen."""
    return PromptTemplate(kind=family.name, trained=family.wordings.trained, unseen=family.wordings.unseen)


def task_name(
    config: str,
    family: str,
    *,
    form: Form = Form.SPEECH,
    wording: Wording = Wording.TRAINED,
    name_list: NameList = TEN_NAMES,
    silence: bool = False,
) -> str:
    """Name of a task; see the module."""
    text = "" if form in SPOKEN or config == "text" else "text_"
    size = "" if name_list.size == TEN_NAMES.size else f"_{name_list.size}"
    without = "" if name_list.with_name else "_without"
    short = "_short" if name_list.trained_sizes == SHORT_LISTS.trained_sizes else ""
    ending = ("_unseen_wording" if wording is Wording.UNSEEN else "") + ("_taught" if form is Form.TAUGHT else "")
    ending += "_silence" if silence else ""
    return f"scenes_{config}_{text}{family}{size}{without}{short}{ending}"


def _source(config: str) -> TfdsSource:
    command = f"python -m slm_jax.tasks.spoken_scenes.prepare --config={config}"
    return TfdsSource(f"spoken_scenes/{config}:{SpokenScenes.VERSION}", splits=SPLITS, prepare_command=command)


def _register_family(
    family: Family,
    config: str,
    *,
    form: Form,
    wording: Wording = Wording.TRAINED,
    name_list: NameList = TEN_NAMES,
    silence: bool = False,
) -> None:
    names = {"transcript": "text", "targets": family.feature} | {n: n for n in ("id", "training")}
    names |= {n: n for n in ("question", "name") if "drill" not in config}
    names |= {"speech": "speech"} if form in SPOKEN else {}
    template = template_of(family)
    decode = [functools.partial(preprocessors.rename_features, names=names)]
    decode += [preprocessors.speech_from_integers] if form in SPOKEN else []
    listed = functools.partial(draw_names, name_list=name_list, written=form is Form.TEXT)
    before_prompt = (listed,) if "names" in template.fields else ()
    before_prompt += (mishear_transcripts,) if form is Form.TEXT else ()
    before_prompt += (surround_with_silence,) if silence else ()
    register(
        TaskDefinition(
            name=task_name(config, family.name, form=form, wording=wording, name_list=name_list, silence=silence),
            source=_source(config),
            decode=tuple(decode),
            before_prompt=before_prompt,
            template=template,
            vocabulary=VOCABULARY,
            form=form,
            wording=wording,
            metric_fns=metrics_for(family.name),
        )
    )


def _register_span_corruption(config: str) -> None:
    names = {"transcript": "text", "training": "training"}
    register(
        TaskDefinition(
            name=task_name(config, "span_corruption", form=Form.SPAN_CORRUPTION),
            source=_source(config),
            decode=(functools.partial(preprocessors.rename_features, names=names),),
            vocabulary=VOCABULARY,
            form=Form.SPAN_CORRUPTION,
            metric_fns=(),
        )
    )


def _register_tasks() -> None:
    for family, wording in itertools.product(FAMILIES, (Wording.TRAINED, Wording.UNSEEN)):
        for config in SPEECH_CONFIGS:
            _register_family(family, config, form=Form.SPEECH, wording=wording)
        for config in TEXT_CONFIGS:
            _register_family(family, config, form=Form.TEXT, wording=wording)
    for config, size, with_name in itertools.product(SPEECH_CONFIGS, LIST_SIZES, (True, False)):
        if (name_list := NameList(size, with_name)) != TEN_NAMES:
            _register_family(FAMILY["bias"], config, form=Form.SPEECH, name_list=name_list)
    for config, families in SPEECH_MIXTURES.items():
        for name in families:
            _register_family(FAMILY[name], config, form=Form.TAUGHT)
    for config in ENCODER_CONFIGS:
        _register_family(FAMILY["transcribe"], config, form=Form.SPEECH)
    for config in ("full", "claims", "tiny", *ENCODER_CONFIGS):
        _register_family(FAMILY["transcribe"], config, form=Form.SPEECH, silence=True)
    _register_family(FAMILY["bias"], "text", form=Form.TEXT, name_list=SHORT_LISTS)
    for config in TEXT_CONFIGS:
        _register_span_corruption(config)


def _register_mixtures() -> None:
    for config, families in SPEECH_MIXTURES.items():
        seqio.MixtureRegistry.add(f"scenes_{config}", [task_name(config, name) for name in families], default_rate=1.0)
        taught = [task_name(config, name, form=Form.TAUGHT) for name in families]
        seqio.MixtureRegistry.add(f"scenes_{config}_taught", taught, default_rate=1.0)
    instructed = [task_name("quickstart", name) for name in INSTRUCTED]
    seqio.MixtureRegistry.add("scenes_quickstart_instructed", instructed, default_rate=1.0)
    for name, rates in ENCODER_RATES.items():
        tasks = [(task_name(config, "transcribe", silence=True), rate) for config, rate in rates.items()]
        seqio.MixtureRegistry.add(name, tasks)
    for config in TEXT_CONFIGS:
        kinds = [family.name for family in FAMILIES] + ["span_corruption"]
        rates = {task_name(config, kind, form=Form.TEXT): TEXT_RATES.get(kind, 1.0) for kind in kinds}
        seqio.MixtureRegistry.add(task_name(config, "all", form=Form.TEXT), [*rates.items()])
        if config == "text":
            del rates[bias := task_name(config, "bias", form=Form.TEXT)]
            short = task_name(config, "bias", form=Form.TEXT, name_list=SHORT_LISTS)
            seqio.MixtureRegistry.add("scenes_text_lists", [*rates.items(), (bias, LIST_RATE)])
            seqio.MixtureRegistry.add("scenes_text_short_lists", [*rates.items(), (short, LIST_RATE)])


_register_tasks()
_register_mixtures()
