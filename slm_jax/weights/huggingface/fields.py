"""The fields of a config.json, every one of which has to be accounted for."""

from typing import Any

NO_EFFECT = frozenset(
    {
        "_model_name_or_path", "_name_or_path",
        "architectures", "attn_implementation", "auto_map", "bos_token_id", "dtype", "eos_token_id",
        "initializer_range", "max_position_embeddings", "model_type", "pad_token_id", "torch_dtype",
        "transformers_version", "transformers.js_config", "unk_token_id", "use_cache",
    }
)  # fmt: skip
"""Fields that say nothing about what is computed, in the config.json of any model."""


class UnsupportedConfigError(ValueError):
    """A config.json asks for something that slm_jax does not compute."""


class Fields:
    """Takes fields out of a config.json until none is left.

    Args:
      values: the fields.
      where: the file, for messages.
    """

    def __init__(self, values: dict[str, Any], *, where: str) -> None:
        self.left = dict(values)
        self.where = where

    def take(self, name: str, *default: Any) -> Any:
        """The value of a field, or the default if one is given.

        Raises:
          UnsupportedConfigError: it is not there, and no default is given.
        """
        if name not in self.left and not default:
            raise UnsupportedConfigError(f"{self.where} has no {name!r}")
        return self.left.pop(name, *default)

    def require(self, name: str, *allowed: Any) -> None:
        """Takes a field that may be missing, but has no other values than these.

        Raises:
          UnsupportedConfigError: it has another value.
        """
        value = self.left.pop(name, allowed[0])
        if value not in allowed:
            choices = " or ".join(repr(each) for each in allowed)
            raise UnsupportedConfigError(f"{self.where}: {name} is {value!r}, but slm_jax supports {choices} alone")

    def drop(self, *names: str) -> None:
        """Takes fields that say nothing about what is computed."""
        for name in names:
            self.left.pop(name, None)

    def finish(self) -> None:
        """
        Raises:
          UnsupportedConfigError: fields are left; they are named.
        """
        self.drop(*NO_EFFECT)
        if self.left:
            names = ", ".join(f"{name}={value!r}" for name, value in sorted(self.left.items()))
            raise UnsupportedConfigError(
                f"{self.where} has fields that slm_jax does not know, and that may change what is computed: {names}"
            )
