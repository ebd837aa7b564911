"""The records of a run in its metrics file (see `metrics`); reading them needs no JAX."""

import json
from typing import Any

from echox_jax import storage
from echox_jax.storage import Path


def read(file: Path) -> list[dict[str, Any]]:
  """Reads the records of a metrics file and skips a truncated last line. Returns [] if there is no
  file.
  """
  records = []
  if storage.is_file(file):
    for line in storage.path(file).read_text('utf-8').splitlines():
      try:
        records.append(json.loads(line))
      except ValueError:
        break
  return records


def kept(file: Path, step: int) -> list[dict[str, Any]]:
  """Returns the records that a run which resumes at `step` keeps; none for a new run."""
  return [record for record in read(file) if step and record['step'] <= step]


def line(record: dict[str, Any]) -> str:
  """Returns the line of a record."""
  return json.dumps(record) + '\n'


def newest(records: list[dict[str, Any]], kind: str) -> dict[str, Any]:
  """Returns the last record of a kind, or {}."""
  return next((record for record in reversed(records) if record['kind'] == kind), {})
