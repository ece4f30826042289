"""Instructions: several wordings a task, and wordings that no task is trained on."""

import dataclasses
import string
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class PromptTemplate:
    """Wordings of one instruction.

    A wording may hold fields of the example in braces: "Translate the speech to {language}."

    Attributes:
      kind: what is asked for; the key in PROMPTS.
      trained: wordings that training draws from; evaluation uses the first.
      unseen: wordings that are never trained on, to measure whether instructions are understood or memorised.

    Raises:
      ValueError: no trained wording, a wording on both lists, or wordings of one template with different fields.
    """

    kind: str
    trained: tuple[str, ...]
    unseen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.trained:
            raise ValueError(f"Prompt template '{self.kind}' has no trained wording")
        both = set(self.trained) & set(self.unseen)
        if both:
            raise ValueError(f"Prompt template '{self.kind}': {sorted(both)} are both trained and unseen")
        for wording in (*self.trained, *self.unseen):
            if set(fields_of(wording)) != set(self.fields):
                raise ValueError(
                    f"Prompt template '{self.kind}': '{wording}' has the fields {list(fields_of(wording))}, "
                    f"'{self.trained[0]}' has {list(self.fields)}"
                )

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields an example must have."""
        return fields_of(self.trained[0])

    def bind(self, **values: str) -> "PromptTemplate":
        """The template with some fields filled in; the others stay."""
        fill = {name: values.get(name, "{" + name + "}") for name in self.fields}
        return PromptTemplate(
            kind=self.kind,
            trained=tuple(wording.format(**fill) for wording in self.trained),
            unseen=tuple(wording.format(**fill) for wording in self.unseen),
        )


def fields_of(wording: str) -> tuple[str, ...]:
    """Names in braces, in order of appearance."""
    return tuple(name for _, name, _, _ in string.Formatter().parse(wording) if name)


TRANSCRIBE = PromptTemplate(
    kind="transcribe",
    trained=("Transcribe the speech.", "Write down what is said.", "What does the speaker say?", "Transcription:"),
    unseen=("Put the recording into writing.", "Type out every word you hear."),
)
INSTRUCT = PromptTemplate(
    kind="instruct",
    trained=(
        "What is this about? Answer in five words.",
        "Rewrite the sentence in fewer words.",
        "Continue the sentence with a few words.",
        "Is the sentence happy or sad? Answer in one word.",
        "What is the first word of the sentence?",
        "Name the people or places in the sentence.",
        "Say the same in other words.",
    ),
    unseen=(
        "Give a short title for this sentence.",
        "Write one short question about the sentence.",
        "What happens next? Answer in one short sentence.",
    ),
)
"""Instructions about any sentence, each of them another; their answers come from a language model (`slm_jax.answers`).
They ask to be short: small models answer others at length, and not what was asked."""
TRANSLATE = PromptTemplate(
    kind="translate",
    trained=(
        "Translate the speech to {language}.",
        "Say this in {language}.",
        "What is this in {language}?",
        "{language} translation:",
    ),
    unseen=("Render the recording in {language}.", "Give me the {language} version of what was said."),
)
ANSWER = PromptTemplate(
    kind="answer",
    trained=("{question}", "Listen and answer: {question}", "Question about the speech: {question}"),
    unseen=("Using only the recording, answer this. {question}",),
)
CONTINUE = PromptTemplate(
    kind="continue",
    trained=("Continue the speech.", "What comes next?", "Go on with the text."),
    unseen=("Guess how the recording goes on.",),
)
REPLY = PromptTemplate(
    kind="reply",
    trained=("Reply to the speaker.", "Answer the speaker.", "What would you say to this?"),
    unseen=("Respond as if you were in the conversation.",),
)
TRANSCRIBE_WITH_PHRASES = PromptTemplate(
    kind="transcribe_with_phrases",
    trained=(
        "Transcribe the speech. Phrases: {phrases}",
        "Write down what is said. It may contain: {phrases}",
        "These may be said: {phrases}. Transcribe.",
    ),
    unseen=("Put the recording into writing. Hints: {phrases}",),
)

PROMPTS: Mapping[str, PromptTemplate] = {
    template.kind: template
    for template in (TRANSCRIBE, INSTRUCT, TRANSLATE, ANSWER, CONTINUE, REPLY, TRANSCRIBE_WITH_PHRASES)
}
"""Templates for speech in general, by kind."""


def prompt_template(kind: str) -> PromptTemplate:
    """The template of PROMPTS of this kind.

    Raises:
      ValueError: there is none.
    """
    if kind not in PROMPTS:
        raise ValueError(f"No prompt template '{kind}'; there are {', '.join(PROMPTS)}")
    return PROMPTS[kind]
