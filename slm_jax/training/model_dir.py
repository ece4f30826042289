"""Where a run writes: a folder of this machine, or of a bucket with a copy here."""

import atexit
import dataclasses
import os
import pathlib
import shutil
import tempfile

from etils import epath


@dataclasses.dataclass(frozen=True)
class ModelDir:
    """A MODEL_DIR, which may lie in a bucket (gs://...).

    Checkpoints and TensorBoard events are written to `place` itself. All else, such as metrics.jsonl, is small and
    written to a folder of this machine, since buckets can neither append nor rename; `push` copies it.

    Attributes:
      place: MODEL_DIR as it was given, `~` filled in.
      local: the same folder, or that of the copy.
      writes: whether this process is the one that writes; the others have an empty copy.
    """

    place: epath.Path
    local: pathlib.Path
    writes: bool
    _pushed: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)

    @classmethod
    def open(cls, directory: str | os.PathLike[str], *, writes: bool = True) -> "ModelDir":
        """The folder, made if it is not there.

        Of a bucket, with what it holds besides checkpoints copied; the copy is gone when the process ends.
        """
        place = epath.Path(directory).expanduser()
        place.mkdir(parents=True, exist_ok=True)
        if not is_remote(directory):
            return cls(place, pathlib.Path(place), writes)
        copy = tempfile.mkdtemp(prefix="slm_jax-")
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        opened = cls(place, pathlib.Path(copy), writes)
        if writes:
            opened._pull()
        return opened

    def write(self, name: str, text: str) -> None:
        """Writes a file of this name, and copies it."""
        if self.writes:
            path = self.local / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        self.push()

    def push(self) -> None:
        """Copies what is new here to the bucket, if it is one."""
        if not self.writes or self.local == pathlib.Path(self.place):
            return
        for path in sorted(path for path in self.local.rglob("*") if path.is_file()):
            state = path.stat().st_size, path.stat().st_mtime_ns
            name = path.relative_to(self.local).as_posix()
            if self._pushed.get(name) != state:
                target = self.place / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
                self._pushed[name] = state

    def _pull(self) -> None:
        for folder in (self.place, self.place / "predictions"):
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.is_file() and "tfevents" not in path.name:
                    target = self.local / path.relative_to(self.place)
                    target.parent.mkdir(exist_ok=True)
                    target.write_bytes(path.read_bytes())


def is_remote(directory: str | os.PathLike[str]) -> bool:
    """Whether a path is one of a bucket."""
    return "://" in os.fspath(directory)
