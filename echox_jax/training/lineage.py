"""Tracks the checkpoints that a stage was trained from, and whether they were retrained since."""

from collections.abc import Iterator, Mapping
import sys

from echox_jax import storage
from echox_jax.parallel import distributed
from echox_jax.storage import Path
from echox_jax.training import checkpoint, stages


def sources(entries: tuple[str, ...], workdir: str | Path) -> dict[str, str]:
  """Returns {entry of `init_from`: id of its finished training}, for entries that have one."""
  ids = {
    entry: (checkpoint.read_finished(_folder(workdir, entry)) or {}).get('id') for entry in entries
  }
  return {entry: identity for entry, identity in ids.items() if identity}


def outdated(
  workdir: str | Path, stage: str, trained_from: Mapping[str, str] | None = None
) -> list[str]:
  """Returns a sentence for each stage, from `stage` back to the first, whose source was retrained
  since.

  Args:
    workdir: folder of the stages.
    stage: name of the stage.
    trained_from: result of `sources` when the stage started; default: the record of its finished
      training.
  """
  if trained_from is None:
    finished = checkpoint.read_finished(storage.path(workdir) / stage) or {}
    trained_from = finished.get('sources', {})
  return list(dict.fromkeys(_outdated(storage.path(workdir), stage, trained_from)))


def warn(workdir: str | Path, stage: str, trained_from: Mapping[str, str] | None = None) -> None:
  """Prints the sentences of `outdated` in the first process."""
  if distributed.is_first():
    for sentence in outdated(workdir, stage, trained_from):
      print(f'warning: {sentence}', file=sys.stderr)


def _outdated(workdir: Path, stage: str, trained_from: Mapping[str, str]) -> Iterator[str]:
  for entry, identity in trained_from.items():
    now = checkpoint.read_finished(_folder(workdir, entry)) or {}
    if now.get('id', identity) != identity:
      yield (
        f'stage {stage!r} was trained from an earlier {entry!r}, which has been trained again '
        'since: '
        f'remove {workdir / stage} and train it again to start from the newer one.'
      )
    if entry in stages.STAGES:
      yield from _outdated(workdir, entry, now.get('sources', {}))


def _folder(workdir: str | Path, entry: str) -> Path:
  return storage.path(workdir) / entry if entry in stages.STAGES else storage.path(entry)
