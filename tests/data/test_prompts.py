"""Prompt templates: wordings agree in their fields, and unseen wordings are never trained on."""

import pytest

from slm_jax.data import prompts
from slm_jax.data.prompts import PromptTemplate


@pytest.mark.parametrize("template", prompts.PROMPTS.values(), ids=lambda template: template.kind)
def test_every_shipped_template_has_several_wordings_and_unseen_ones(template: PromptTemplate) -> None:
    assert len(template.trained) >= 3 and template.unseen
    assert prompts.prompt_template(template.kind) is template


def test_fields_and_binding() -> None:
    template = PromptTemplate(kind="k", trained=("To {language}: {text}",), unseen=("{text} in {language}",))
    assert template.fields == ("language", "text")
    bound = template.bind(language="German")
    assert bound.trained == ("To German: {text}",) and bound.unseen == ("{text} in German",)
    assert (bound.kind, bound.fields) == ("k", ("text",))


def test_bad_templates_are_refused() -> None:
    with pytest.raises(ValueError, match="no trained wording"):
        PromptTemplate(kind="k", trained=())
    with pytest.raises(ValueError, match="both trained and unseen"):
        PromptTemplate(kind="k", trained=("a", "b"), unseen=("b",))
    with pytest.raises(ValueError, match="'b' has the fields"):
        PromptTemplate(kind="k", trained=("a {x}",), unseen=("b",))


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="No prompt template 'sing'; there are transcribe"):
        prompts.prompt_template("sing")
