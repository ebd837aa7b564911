"""A report that opens in any browser: one HTML file that contains its figures and sounds."""

import base64
from collections.abc import Mapping
import html
from typing import Any

from echox_jax import audio, storage
from echox_jax.evaluation import figures, pages, store
from echox_jax.storage import Path
from echox_jax.training import layout, records

STAGES = ('text', 'align', 's2t', 't2c', 'echo', 'vocoder')


def write_report(
  out_dir: str | Path,
  metrics: Mapping[str, Any],
  reply: Mapping[str, Any],
  targets: Mapping[str, tuple[str, float]],
) -> Path:
  """Writes `report.html` into the working folder of a finished run.

  Args:
    out_dir: has `{stage}/metrics.jsonl`, `question.wav`, `reply.wav` and `evaluation/`; parts that
      are missing there are left out.
    metrics: of launch.evaluate, plus other entries for the table.
    reply: the output of `launch.respond --json` for `reply.wav`.
    targets: name -> ('>=' or '<=', value).

  Raises:
    MissingExtraError: matplotlib is not installed.
  """
  out_dir = storage.path(out_dir)
  curves = {stage: read_metrics(out_dir / stage / layout.METRICS) for stage in STAGES}
  evaluation = out_dir / 'evaluation'
  sounds = {
    'a real answer, never heard in training': store.remade_sound(evaluation, 0, 'natural'),
    'the same from its units (vocoder, predicted durations)': store.remade_sound(
      evaluation, 0, 'predicted'
    ),
    f"the model's own answer: “{reply['text']}”": out_dir / 'reply.wav',
  }
  waves = {name: audio.load_audio(path) for name, path in sounds.items() if storage.is_file(path)}
  sections = [
    ('One question, one spoken answer', _players(out_dir, reply)),
    (
      'Scores',
      '<p class="grey">Questions by voices never heard in training; black marks are the '
      f'targets, thin lines 95 % intervals.{_link(evaluation)}</p>'
      + _image(figures.scores(metrics, targets))
      + _image(figures.groups(metrics)),
    ),
    ('How the answer streamed', _image(figures.timeline(reply)) if reply['slices'] else ''),
    ('Real and spoken', _image(figures.spectrograms(waves)) if waves else ''),
    (
      'Training',
      _image(figures.loss_curves({s: r for s, r in curves.items() if r}))
      if any(curves.values())
      else '',
    ),
    ('All figures', _table(metrics, targets)),
  ]
  page = pages.page(
    'EchoX report',
    'EchoX',
    'A spoken question, a spoken answer: what was trained and how well it works.',
    sections,
  )
  return storage.atomic_write_text(out_dir / 'report.html', page)


def read_metrics(path: Path) -> list[dict[str, Any]]:
  """The training and held-out records of a metrics file; empty if there is no file."""
  return [record for record in records.read(path) if record.get('kind') in ('train', 'eval')]


def _players(out_dir: Path, reply: Mapping[str, Any]) -> str:
  rows = []
  for label, name in (('Question', 'question.wav'), ('Answer', 'reply.wav')):
    if storage.is_file(out_dir / name):
      rows.append(
        f'<p>{label}: <audio controls '
        f'src="{_data((out_dir / name).read_bytes(), "audio/wav")}"></audio></p>'
      )
  return f'<p>“{html.escape(reply["text"])}”</p>' + ''.join(rows)


def _link(evaluation: Path) -> str:
  """A sentence that leads to the report of the evaluation, if it is there."""
  if not storage.is_file(evaluation / store.REPORT):
    return ''
  return f' <a href="{evaluation.name}/{store.REPORT}">Every question and answer</a>'


def _table(metrics: Mapping[str, Any], targets: Mapping[str, tuple[str, float]]) -> str:
  rows, bounds = [], metrics.get('intervals', {})
  for name, value in _flat({key: own for key, own in metrics.items() if key != 'intervals'}):
    aim = ''
    if name in targets and value is not None:
      sign, goal = targets[name]
      good = value >= goal if sign == '>=' else value <= goal
      style, mark = ('ok', '✓') if good else ('missed', 'missed')
      aim = f'<span class="{style}">{html.escape(sign)} {goal:g} {mark}</span>'
    shown = (
      'none'
      if value is None
      else f'{value:g}'
      if isinstance(value, (int, float))
      else html.escape(str(value))
    )
    if name in bounds:
      shown += ' [{:g}, {:g}]'.format(*bounds[name])
    rows.append(
      f'<tr><td>{html.escape(name.replace("_", " "))}</td><td '
      f'class="n">{shown}</td><td>{aim}</td></tr>'
    )
  return f'<table><tr><th>figure</th><th></th><th>target</th></tr>{"".join(rows)}</table>'


def _flat(metrics: Mapping[str, Any]):
  """Pairs of name and value; values by voice and by category are in the figures instead."""
  for name, value in metrics.items():
    if isinstance(value, Mapping):
      if not name.startswith('by_'):
        yield from ((f'{name}: {key}', item) for key, item in value.items())
    else:
      yield name, value


def _image(png: bytes) -> str:
  return f'<img alt="" src="{_data(png, "image/png")}">'


def _data(content: bytes, kind: str) -> str:
  return f'data:{kind};base64,{base64.b64encode(content).decode()}'
