"""Speech and language models in JAX: a frozen speech encoder, a trained adapter and a frozen language model."""

import importlib
from typing import Any

__version__ = "0.1.0"

# Imported on first use, so that `import slm_jax` alone costs nothing and needs nothing.
_PUBLIC = {
    "Adapter": "slm_jax.models.interfaces",
    "EncoderOutput": "slm_jax.models.interfaces",
    "FrameReducer": "slm_jax.models.interfaces",
    "LanguageModel": "slm_jax.models.interfaces",
    "PrefixOrder": "slm_jax.models.slm",
    "SpeechEncoder": "slm_jax.models.interfaces",
    "SpeechLanguageModel": "slm_jax.models.slm",
    "gin_folder": "slm_jax.resources",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'slm_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
