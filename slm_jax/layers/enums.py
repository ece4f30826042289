"""Enum settings that may be given by value, as gin files and command lines do."""

import dataclasses
import enum
from typing import Any


def resolve_enums(settings: Any) -> None:
    """Replaces values ("tied") by members (OutputHead.TIED) in the fields whose default is a member.

    Call it in the `__post_init__` of a dataclass or linen module, frozen ones too.

    Raises:
      ValueError: a value that its enum does not have; the message lists those it has.
    """
    for field in dataclasses.fields(settings):
        if isinstance(field.default, enum.Enum):
            kind, value = type(field.default), getattr(settings, field.name)
            if value not in [*kind, *(member.value for member in kind)]:
                choices = ", ".join(repr(member.value) for member in kind)
                raise ValueError(f"{type(settings).__name__}.{field.name} is {value!r}, choose one of {choices}")
            object.__setattr__(settings, field.name, kind(value))
