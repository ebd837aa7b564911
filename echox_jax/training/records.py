"""The records of a run in its metrics file (see `metrics`); reading them needs no JAX."""

import json
from pathlib import Path
from typing import Any

from echox_jax import files


def read(file: Path) -> list[dict[str, Any]]:
  """Reads the records of a metrics file and skips a truncated last line. Returns [] if there is no
  file.
  """
  records = []
  if Path(file).exists():
    for line in Path(file).read_text('utf-8').splitlines():
      try:
        records.append(json.loads(line))
      except ValueError:
        break
  return records


def truncate(file: Path, step: int) -> list[dict[str, Any]]:
  """Drops the records after `step` (all of them for a new run); returns the others."""
  kept = [record for record in read(file) if step and record['step'] <= step]
  files.atomic_write_text(file, ''.join(json.dumps(record) + '\n' for record in kept))
  return kept


def newest(records: list[dict[str, Any]], kind: str) -> dict[str, Any]:
  """Returns the last record of a kind, or {}."""
  return next((record for record in reversed(records) if record['kind'] == kind), {})
