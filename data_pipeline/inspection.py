"""Describes a folder of data sets: counts, hours, lengths, expected padding, and faulty items."""

import collections
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np
from tqdm import tqdm

from data_pipeline import dataset, quarantine, schema
from echox_jax import rates, storage
from echox_jax.errors import DataError, MissingExtraError
from echox_jax.storage import Path
from echox_jax.training.experiment import DataConfig

STATES_PER_SECOND = 50
_LENGTHS = ('user_seconds', 'assistant_seconds', 'text_characters', 'unit_words')
_DAMAGED_NAMED = 20


@dataclasses.dataclass
class Split:
  """Findings about one split.

  Attributes:
    name: `set/split`.
    examples: how many.
    turns: how many of each role.
    filled: number of turns with text, audio, units, unit words, states.
    lengths: lengths of the turns that have the array, by `_LENGTHS`.
    damaged: (id or number, what is wrong).
    shown: the first examples, as text.
  """

  name: str
  examples: int
  turns: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  filled: collections.Counter = dataclasses.field(default_factory=collections.Counter)
  lengths: dict[str, list[float]] = dataclasses.field(
    default_factory=lambda: {name: [] for name in _LENGTHS}
  )
  damaged: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  shown: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def inspect(
  data_dir: str | Path,
  *,
  batch_size: int = 16,
  data: DataConfig | None = None,
  shown: int = 2,
  progress: bool = False,
) -> tuple[dict[str, Any], list[Split]]:
  """Reads every record of every data set in `data_dir` once.

  Args:
    data_dir: folder of data sets.
    batch_size: batch size of the padding forecast.
    data: sizes of a stage, to include its static sizes in the forecast.
    shown: number of examples to show of each split.
    progress: whether to show a bar.

  Returns:
    a JSON-ready report, and the splits it was made from. The report: `sets` (by `set/split`:
    `examples`, `turns`, `filled`, `hours` by role, `lengths` as quantiles, `padding`, `damaged`,
    `shown`), `quarantined` (by reason), `total_hours`.

  Raises:
    DataError: the folder holds no data sets.
  """
  data_dir = storage.path(data_dir)
  names = sorted(path.parent.name for path in data_dir.glob(f'*/{dataset.INFO}'))
  if not names:
    raise DataError(
      f'{data_dir} holds no data sets: name the folder that `python -m '
      'launch.corpus` or `python -m launch.precompute` wrote.'
    )
  splits = [
    _read(data_dir, name, split, shown, progress)
    for name in names
    for split in dataset.split_names(data_dir, name)
  ]
  refused = data_dir / quarantine.FILE
  sets = {split.name: _report(split, batch_size, data) for split in splits}
  return {
    'folder': str(data_dir),
    'total_hours': round(sum(sum(values['hours'].values()) for values in sets.values()), 4),
    'sets': sets,
    'quarantined': quarantine.summary(quarantine.read(refused)) if storage.is_file(refused) else {},
  }, splits


def _read(data_dir: Path, name: str, split: str, shown: int, progress: bool) -> Split:
  source = dataset.open_dataset(data_dir, name, split)
  found, ids = Split(f'{name}/{split}', len(source)), set()
  for number in tqdm(
    range(len(source)), desc=found.name, unit='example', disable=not progress, mininterval=1.0
  ):
    try:
      example = schema.decode(source[number])
    except Exception as error:  # readers raise unknown kinds of errors for damaged files
      found.damaged.append((f'number {number}', f'cannot be read ({error})'))
      continue
    found.damaged += [(example.id, what) for what in _faults(example, ids)]
    ids.add(example.id)
    for turn in example.turns:
      _count(found, turn)
    if len(found.shown) < shown:
      found.shown.append({'id': example.id, 'turns': [_in_words(turn) for turn in example.turns]})
  return found


def _faults(example: schema.Example, ids: set[str]) -> Iterator[str]:
  """Faults of an example that can be read."""
  if example.id in ids:
    yield 'repeats an id'
  for number, turn in enumerate(example.turns):
    if len(turn.audio) and not turn.text.strip():
      yield f'turn {number} has audio without text'
    if len(turn.audio) and not turn.audio.any():
      yield f'turn {number} is silent'
    if not (turn.text.strip() or len(turn.audio)):
      yield f'turn {number} is empty'


def _count(found: Split, turn: schema.Turn) -> None:
  found.turns[turn.role] += 1
  for field in ('text', *schema.ARRAYS):
    found.filled[field] += bool(len(getattr(turn, field)))
  measured = {
    f'{turn.role}_seconds': len(turn.audio) / rates.SAMPLE_RATE,
    'text_characters': len(turn.text),
    'unit_words': len(turn.unit_words),
  }
  for name, length in measured.items():
    if length:
      found.lengths[name].append(length)


def _in_words(turn: schema.Turn) -> dict[str, Any]:
  """The text fields of a turn, and the sizes of its arrays."""
  text = {field: value for field in schema.TEXT_FIELDS if (value := getattr(turn, field))}
  return {
    **text,
    **{
      field: list(getattr(turn, field).shape)
      for field in schema.ARRAYS
      if len(getattr(turn, field))
    },
  }


def _report(split: Split, batch_size: int, data: DataConfig | None) -> dict[str, Any]:
  seconds = {role: split.lengths[f'{role}_seconds'] for role in schema.ROLES}
  return {
    'examples': split.examples,
    'turns': dict(split.turns),
    'filled': {name: count for name, count in split.filled.items() if count},
    'hours': {role: round(sum(values) / 3600, 4) for role, values in seconds.items() if values},
    'lengths': {name: _quantiles(values) for name, values in split.lengths.items() if values},
    'padding': {
      role: padding_forecast(
        values, batch_size, data.max_states / STATES_PER_SECOND if data and role == 'user' else None
      )
      for role, values in seconds.items()
      if values
    },
    'damaged': len(split.damaged),
    'damaged_named': [list(pair) for pair in split.damaged[:_DAMAGED_NAMED]],
    'shown': split.shown,
  }


def _quantiles(values: Sequence[float]) -> dict[str, float]:
  points = np.quantile(values, [0, 0.05, 0.5, 0.95, 1])
  return {
    name: round(float(point), 2)
    for name, point in zip(('min', 'p5', 'median', 'p95', 'max'), points)
  }


def padding_forecast(
  seconds: Sequence[float], batch_size: int, longest: float | None = None
) -> dict[str, float]:
  """The share of a batch that is padding, for clips of the given lengths.

  Args:
    seconds: length of each clip.
    batch_size: clips per batch.
    longest: static length of a batch in seconds; longer clips are left out.

  Returns:
    `shuffled`: batches in random order, each as long as its longest clip; `by_length`: batches of
    clips of similar length. With `longest` also `static`: every batch has that length; and
    `left_out`: the number of clips.
  """
  values = np.asarray(seconds, np.float64)

  def share(ordered: np.ndarray) -> float:
    batches = np.split(ordered, range(batch_size, len(ordered), batch_size))
    return round(1 - ordered.sum() / sum(len(batch) * batch.max() for batch in batches), 4)

  out = {
    'shuffled': share(np.random.default_rng(0).permutation(values)),
    'by_length': share(np.sort(values)),
  }
  if longest is not None:
    kept = values[values <= longest]
    out |= {
      'static': round(1 - kept.sum() / (longest * len(kept)), 4) if len(kept) else 1.0,
      'left_out': len(values) - len(kept),
    }
  return out


def in_text(report: Mapping[str, Any]) -> str:
  """The report as readable text."""
  lines = [f'{report["folder"]}: {report["total_hours"]:.2f} hours of speech']
  for name, values in report['sets'].items():
    hours = (
      ', '.join(f'{role} {amount:.2f} h' for role, amount in values['hours'].items()) or 'no audio'
    )
    filled = ', '.join(f'{field} {count}' for field, count in values['filled'].items())
    lines += ['', f'{name}: {values["examples"]} examples, {hours}', f'  turns with {filled}']
    lines += [
      f'  {what.replace("_", " ")}: '
      + ', '.join(f'{key} {value:g}' for key, value in points.items())
      for what, points in values['lengths'].items()
    ]
    lines += [
      f'  padding of {role} audio: '
      + ', '.join(
        f'{kind.replace("_", " ")} {value:.0%}' if kind != 'left_out' else f'left out {value}'
        for kind, value in shares.items()
      )
      for role, shares in values['padding'].items()
    ]
    lines += [
      f'  e.g. {shown["id"]}: '
      + ' | '.join(f'{turn["role"]}: {turn.get("text", "")}' for turn in shown['turns'])
      for shown in values['shown']
    ]
    lines += [f'  damaged: {who} {what}' for who, what in values['damaged_named']]
    if values['damaged'] > len(values['damaged_named']):
      lines.append(f'  damaged: {values["damaged"]} in all')
  if report['quarantined']:
    lines += [
      '',
      f'left out before ({quarantine.FILE}): '
      + ', '.join(f'{count} {reason}' for reason, count in report['quarantined'].items()),
    ]
  return '\n'.join(lines)


def draw(splits: Sequence[Split], path: str | Path) -> None:
  """Draws histograms of the lengths to a picture file, one row per split.

  Raises:
    MissingExtraError: matplotlib is not installed.
    DataError: the file name does not end like a picture file.
  """
  try:
    from matplotlib.figure import Figure
  except ImportError as error:
    raise MissingExtraError('matplotlib', 'demo', 'The picture of lengths') from error
  columns = [name for name in _LENGTHS if any(split.lengths[name] for split in splits)]
  figure = Figure(figsize=(3.2 * max(1, len(columns)), 1.9 * len(splits)), layout='constrained')
  axes = figure.subplots(len(splits), max(1, len(columns)), squeeze=False)
  for row, split in zip(axes, splits):
    for ax, name in zip(row, columns):
      if split.lengths[name]:
        ax.hist(split.lengths[name], bins=40)
      else:
        ax.set_axis_off()
      ax.set_title(f'{split.name}: {name.replace("_", " ")}', fontsize=8)
      ax.tick_params(labelsize=7)
  try:
    with storage.staged(path) as beside:
      figure.savefig(beside, dpi=120, format=storage.path(path).suffix[1:] or 'png')
  except ValueError as error:
    raise DataError(f'{path} is not a picture file: end it in .png.') from error
