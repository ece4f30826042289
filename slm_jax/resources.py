"""Where files that come with slm_jax lie, in a checkout and in an installed package alike."""

import pathlib

PACKAGE = pathlib.Path(__file__).resolve().parent


def gin_folder() -> pathlib.Path:
    """The folder of gin files: slm_jax/gin in an installed package, gin/ beside slm_jax/ in a checkout.

    Raises:
      FileNotFoundError: neither is there.
    """
    for folder in (PACKAGE / "gin", PACKAGE.parent / "gin"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"No gin files at {PACKAGE / 'gin'} nor at {PACKAGE.parent / 'gin'}: install slm_jax again, "
        "or run `pip install -e .` in a checkout."
    )


def lock_file() -> pathlib.Path | None:
    """The checkout's pinned versions, requirements/cpu.lock; None in an installed package, which has none."""
    path = PACKAGE.parent / "requirements" / "cpu.lock"
    return path if path.exists() else None
