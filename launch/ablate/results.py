"""Writes what an ablation shows: results.md, results.json, shares.png and latency.png."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from pathlib import Path
from typing import Any

from echox_jax import errors, storage
from echox_jax.evaluation import ablation, figures
from launch.ablate import presets
from launch.ablate.cells import UNTRAINED, cell_name
from launch.ablate.presets import AS_BASE, BASE, QUESTIONS, STREAMING, Cutting, Preset, Variant

# Name of a cell -> its records; None: it is not finished.
Read = Callable[[str], list[dict[str, Any]] | None]
_SPLITS = ('heard', 'unheard')


def write(
  preset: Preset,
  out: Path,
  read: Read,
  seconds: Mapping[str, float],
  chosen: Sequence[str] | None = None,
) -> str:
  """Writes all files, from the cells that are finished; returns the Markdown.

  Args:
    preset: the table.
    out: folder.
    read: gives the records of a cell.
    seconds: what each task took.
    chosen: blocks; None = all.

  Raises:
    DataError: no two cells that can be compared are finished.
  """
  blocks = tables(preset, read, chosen)
  if not blocks:
    raise errors.DataError(
      f'{out} has no finished cells to compare yet: wait until the base of a block and another of '
      'its variants are finished.'
    )
  rows = [one for some in blocks.values() for one in some]
  parts = [_method(preset, read), ablation.caution(rows)]
  for block, some in blocks.items():
    parts.append(f'## {QUESTIONS[block]}\n')
    parts.append(ablation.markdown(some, timed=block == STREAMING))
    parts.append(ablation.in_words(QUESTIONS[block], some))
  text = '# Ablations\n\n' + '\n\n'.join(part.strip() for part in parts) + '\n'
  storage.atomic_write_text(out / 'results.md', text)
  storage.atomic_write_json(
    out / 'results.json',
    {
      'blocks': {
        block: [dataclasses.asdict(one) for one in some] for block, some in blocks.items()
      },
      'questions': QUESTIONS,
      'seeds': preset.seeds,
      'minutes': round(sum(seconds.values()) / 60, 1),
      'seconds': dict(seconds),
    },
  )
  panels = {
    QUESTIONS[block]: [(one.what, _shown(one)) for one in some]
    for block, some in blocks.items()
    if block != STREAMING
  }
  if panels:
    storage.atomic_write_bytes(out / 'shares.png', figures.shares(panels))
  if STREAMING in blocks:
    points = [(one.what, one.lag, _shown(one)) for one in blocks[STREAMING]]
    picture = figures.latency(points, 'text tokens before the first slice is cut')
    storage.atomic_write_bytes(out / 'latency.png', picture)
  return text


def tables(
  preset: Preset, read: Read, chosen: Sequence[str] | None = None
) -> dict[str, list[ablation.Row]]:
  """The rows of each question; the first is the base of its differences.

  Only finished cells count. A variant without any is left out, and so is a block without its base,
  or with nothing but it.
  """
  blocks = {}
  for block in sorted(chosen or presets.blocks(preset)):
    base, *others = _variants(preset, block)
    told = _finished(preset, base, read)
    found = {variant: _finished(preset, variant, read) for variant in others}
    if told and any(found.values()):
      blocks[block] = [ablation.row(base.name, AS_BASE.get(block, base.what), told)]
      blocks[block] += [
        ablation.row(variant.name, variant.what, own, told) for variant, own in found.items() if own
      ]
  return blocks


def _variants(preset: Preset, block: str) -> Sequence[Variant | Cutting]:
  """What a block compares; its base comes first."""
  if block == STREAMING:
    return preset.cuttings
  base = next(variant for variant in preset.variants if variant.name == BASE)
  return [base, *(v for v in preset.variants if v.block == block and v.name != BASE)]


def _finished(preset: Preset, variant: Variant | Cutting, read: Read) -> ablation.Answers:
  """The records of its finished cells."""
  names = {seed: cell_name(variant.name, seed) for seed in preset.seeds}
  if isinstance(variant, Variant) and not variant.trains:
    names = {None: variant.name}
  found = {seed: read(name) for seed, name in names.items()}
  return {seed: records for seed, records in found.items() if records is not None}


def _shown(one: ablation.Row) -> dict[str, Sequence[float]]:
  return {split: one.s2s[split] for split in _SPLITS if split in one.s2s}


def _method(preset: Preset, read: Read) -> str:
  """How the figures came about, in a paragraph."""
  asked = read(UNTRAINED)
  counts = {
    split: sum(record['split'] in kinds for record in asked)
    for split, kinds in ablation.SPLITS.items()
  }
  steps = next((f for f in preset.stages['echo'] if f.startswith('train.steps=')), 'as configured')
  return (
    f'Every trained cell has the same budget in stage `echo` ({steps}), from the same earlier '
    f'stages; the column `cells` tells how many of {len(preset.seeds)} seeds are finished. A '
    'conventional cell differs from an echo cell in the targets that its line names, and speaks '
    'whole answers, as it was trained. Voices never heard in training ask '
    f'{counts["heard"]} questions about facts whose spoken answers are in the '
    f'training audio of every method (heard), and {counts["unheard"]} about facts whose spoken '
    f'answers no stage has heard (unheard); in {counts["new words"]} of these the asked word '
    'itself was never spoken. S2T: the text is right. S2S: what the judge hears is right. WER: the '
    'judge against the text. Brackets: 95 % bootstrap intervals over questions and seeds; '
    'differences are paired by question, and bold where the interval excludes 0.'
  )
