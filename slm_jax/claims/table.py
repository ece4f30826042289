"""The claims, one by one."""

from collections.abc import Iterator

import numpy as np

from slm_jax.claims.measures import Claim, difference, error_rates, exact, measured, metric, ratio, spread
from slm_jax.claims.study import Study
from slm_jax.tasks.spoken_scenes.families import FAMILIES
from slm_jax.tasks.spoken_scenes.names import CATALOGUE

TRAINED_WITH_SPEECH = ("transcribe", "translate_de")
SIZES = (1, 10, 50, 100)
RETRIEVED = 1
"""Names of a catalogue that are listed: it is nine times in ten the right one, and more only confuse."""
WORDED = ("transcribe", "translate_de", "translate_es", "reply")


def all_claims(study: Study) -> Iterator[Claim]:
    """Every number, in the order in which it is shown."""
    yield from recognition(study)
    yield from families(study)
    yield from biasing(study)
    yield from wordings(study)
    yield text_ability(study)
    yield from listening(study)
    yield from sizes(study)


def recognition(study: Study) -> Iterator[Claim]:
    """Word error rates of the system, also where silence is around the speech, of CTC alone, and of the language model
    reading CTC's transcript.
    """
    for name, label, answers, bounds in (
        ("wer", "recognition, WER", study.spoken("transcribe"), {"at_most": 3.0}),
        ("wer_silence", "  with silence around the speech", study.in_silence(), {}),
        ("wer_ctc", "  the encoder's CTC alone", study.ctc(), {}),
        ("wer_cascade", "  CTC's text, then the language model", study.cascade("transcribe"), {}),
    ):
        names, others, every = error_rates(answers, chosen=CATALOGUE)
        yield measured(name, label, every, n=len(answers), **bounds)
        yield measured(f"{name}_names", f"{label}: names", names, n=len(answers))
        yield measured(f"{name}_others", f"{label}: other words", others, n=len(answers))


def families(study: Study) -> Iterator[Claim]:
    """Of each instruction but transcription: the score from speech over the score from the true transcript."""
    for family in (family.name for family in FAMILIES if family.name not in ("transcribe", "bias")):
        spoken, written = study.spoken(family), study.written(family)
        name, from_speech = metric(spoken, family)
        _, from_text = metric(written, family)
        trained = family in TRAINED_WITH_SPEECH
        kind = "trained" if trained else "zero-shot"
        bound = 0.95 if trained else 0.90
        yield measured(f"{family}_speech", f"{family} ({kind}), {name} from speech", from_speech, n=len(spoken))
        yield measured(f"{family}_text", f"  {name} from the transcript", from_text, n=len(written))
        yield measured(f"{family}_ratio", "  ratio", ratio(from_speech, from_text), n=len(spoken), at_least=bound)
        if name == "bleu":
            whole = [exact(answers) for answers in (spoken, written)]
            for score, place in zip(whole, ("speech", "text"), strict=True):
                yield measured(
                    f"{family}_exact_{place}", f"  whole sentences right, from {place}", score, n=len(spoken)
                )


def biasing(study: Study) -> Iterator[Claim]:
    """Names that training never had: without a list, with lists of any length, with what a catalogue gives."""
    plain = study.spoken("transcribe")
    names_plain, _, all_plain = error_rates(plain, chosen=CATALOGUE)
    yield measured("bias_0_names", "no list, WER of names", names_plain, n=len(plain))
    for size in SIZES:
        names, others, _ = error_rates(study.listed(size, with_name=True), chosen=CATALOGUE)
        yield measured(f"bias_{size}_names", f"list of {size} with the name, WER of names", names, n=len(plain))
        yield measured(f"bias_{size}_others", "  WER of other words", others, n=len(plain))
        names, _, every = error_rates(study.listed(size, with_name=False), chosen=CATALOGUE)
        yield measured(f"bias_{size}_without_names", "  without the name, WER of names", names, n=len(plain))
        yield measured(
            f"bias_{size}_without_cost", "  without the name, points of WER lost", difference(every, all_plain),
            n=len(plain), at_most=0.5,
        )  # fmt: skip
    names_ten, _, _ = error_rates(study.listed(10, with_name=True), chosen=CATALOGUE)
    yield measured(
        "bias_gain", "names wrong with a list of 10 over without", ratio(names_ten, names_plain),
        n=len(plain), at_most=0.5,
    )  # fmt: skip
    retrieved = study.retrieved(RETRIEVED)
    names, others, _ = error_rates(retrieved, chosen=CATALOGUE)
    label = f"CTC's text finds {RETRIEVED} of {len(CATALOGUE)} names, WER of names"
    yield measured("retrieval_names", label, names, n=len(plain))
    yield measured("retrieval_others", "  WER of other words", others, n=len(plain))
    yield measured(
        "retrieval_ratio",
        "  over the list of 10 that surely has it",
        ratio(names, names_ten),
        n=len(plain),
        at_most=1.2,
    )


def wordings(study: Study) -> Iterator[Claim]:
    """Largest less smallest score over the wordings that are never trained on, relative to their mean."""
    for family in WORDED:
        prompts = study.template(family).unseen
        answers = [study.worded(family, prompt) for prompt in prompts]
        name = metric(answers[0], family)[0]
        scores = [metric(each, family)[1] for each in answers]
        label = f"{family}, {name} over {len(prompts)} unseen wordings, "
        n = len(answers[0])
        yield measured(f"wording_{family}", label + "spread over mean", spread(scores), n=n, at_most=0.1)
        yield measured(f"wording_{family}_mean", "  mean", lambda i: float(np.mean([s(i) for s in scores])), n=n)  # noqa: B023


def text_ability(study: Study) -> Claim:
    """Whether the language model's scores for text are bit for bit those of the language model alone."""
    scores = study.text_scores()
    label = "scores of text that differ from the language model's before training"
    differ = sum(int(np.sum(within != alone)) for within, alone in scores)
    return Claim("text_changed", label, float(differ), n=len(scores), at_most=0.0)


def listening(study: Study) -> Iterator[Claim]:
    """Losses a token with the utterance, with another's, and with none."""
    losses = study.listening_losses()
    for name, loss in losses.items():
        yield Claim(f"loss_{name}", f"loss a token, {name} speech", loss, n=study.size)
    for name in ("shuffled", "no"):
        yield Claim(f"loss_{name}_ratio", f"  {name} over true", losses[name] / losses["true"], n=study.size)


def sizes(study: Study) -> Iterator[Claim]:
    """Parameters that are trained, and their share of all."""
    counts = study.counts()
    total = counts["trainable"] + counts["frozen"]
    yield Claim("trained_parameters", "parameters trained", float(counts["trainable"]))
    yield Claim("trained_share", "  percent of all", 100.0 * counts["trainable"] / total)
