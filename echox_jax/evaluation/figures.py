"""The figures of a report (matplotlib, extra `demo`). Each function draws one figure and returns it
as PNG bytes.
"""

from collections.abc import Mapping, Sequence
import io
from typing import Any

import numpy as np

from echox_jax import rates
from echox_jax.errors import require

INK, GREY, GRID = '#222222', '#8a8a8a', '#e6e6e6'
BLUE, ORANGE, GREEN, RED, VIOLET = '#2f6db3', '#e08a2b', '#3f8f5b', '#c0443c', '#7a5aa8'
_CURVES = {  # metric -> (colour, label)
  'text_ce': (BLUE, 'text'),
  'ctc': (ORANGE, 'CTC'),
  'pull': (GREEN, 'pull'),
  'token_error_rate': (RED, 'token errors'),
  'unit_ce': (BLUE, 'unit words'),
  'echo_ce': (GREEN, 'echo'),
  'denoising': (RED, 'denoising'),
  'mel_loss': (BLUE, 'mel'),
  'stft_loss': (GREY, 'STFT'),
  'duration_loss': (ORANGE, 'durations'),
  'pitch_loss': (VIOLET, 'pitch'),
  'feature_loss': (GREEN, 'features'),
  'adversarial_loss': (RED, 'adversarial'),
  'discriminator_loss': (INK, 'discriminators'),
}

_HELD_OUT = dict(lw=1, ls='--', marker='o', markersize=2.5)


def loss_curves(stages: Mapping[str, Sequence[Mapping[str, Any]]]) -> bytes:
  """One panel per stage: loss terms over steps on a log scale, from the records of its metrics
  file; held-out losses are dashed.
  """
  figure = _figure(2.4 * len(stages), 2.3)
  for i, (stage, records) in enumerate(stages.items()):
    axes = _axes(figure, 1, len(stages), i + 1, stage)
    found = [name for name in _CURVES if any(name in r for r in records)] or ['loss']
    for name in found:
      colour, label = _CURVES.get(name, (BLUE, name))
      for kind, style in (('train', dict(lw=1.4, label=label)), ('eval', _HELD_OUT)):
        points = [(r['step'], r[name]) for r in records if r['kind'] == kind and r.get(name, 0) > 0]
        if points:
          axes.plot(*zip(*points), color=colour, **style)
    if any(r['kind'] == 'eval' for r in records):
      axes.plot([], [], color=GREY, label='held out', **_HELD_OUT)
    axes.set_yscale('log')
    axes.tick_params(axis='y', which='minor', left=False, labelleft=False)
    axes.locator_params(axis='x', nbins=4)
    axes.set_xlabel('step', color=GREY)
    axes.legend(fontsize=7, frameon=False)
  return _png(figure)


def scores(metrics: Mapping[str, Any], targets: Mapping[str, tuple[str, float]]) -> bytes:
  """Two panels of bars, for scores that should be high and that should be low, with a mark at each
  target, and a thin line for each 95 % interval.
  """
  bounds = metrics.get('intervals', {})
  high = [
    n
    for n in ('text_exact_match', 's2t_exact_match', 's2s_exact_match')
    if metrics.get(n) is not None
  ]
  low = [
    n
    for n in ('reply_wer', 'resynthesis_wer', 'resynthesis_wer_true_durations', 'natural_wer')
    if metrics.get(n) is not None
  ]
  figure = _figure(9.6, 2.2)
  for place, (names, title) in enumerate(
    ((high, 'exact match (higher is better)'), (low, 'word error rate (lower is better)')), 1
  ):
    axes = _axes(figure, 1, 2, place, title)
    values = [metrics[name] for name in names]
    goals = [targets[name][1] if name in targets else None for name in names]
    most = 1.0 if place == 1 else 1.25 * max([*values, *(g for g in goals if g), 0.05])
    for y, (name, value, goal) in enumerate(zip(names, values, goals)):
      good = goal is None or (value >= goal if place == 1 else value <= goal)
      axes.barh(y, value, color=GREY if goal is None else GREEN if good else ORANGE, height=0.6)
      if name in bounds:
        axes.plot(bounds[name], [y + 0.3, y + 0.3], color=INK, lw=0.8, solid_capstyle='butt')
      inside = value > 0.2 * most
      axes.text(
        value - 0.02 * most if inside else value + 0.01 * most,
        y,
        f'{value:.3f}',
        va='center',
        fontsize=8,
        ha='right' if inside else 'left',
        color='white' if inside else INK,
      )
      if goal is not None:
        axes.plot([goal, goal], [y - 0.42, y + 0.42], color=INK, lw=1.6)
    axes.set_yticks(
      range(len(names)),
      [n.replace('_', ' ').replace(' exact match', '').replace(' wer', '') for n in names],
    )
    axes.set_xlim(0, 1.12 * most)
    axes.invert_yaxis()
  return _png(figure)


def groups(metrics: Mapping[str, Any]) -> bytes:
  """Exact match by category and by voice: one bar for the text answer, and one for what the judge
  heard.
  """
  panels = [
    (title, metrics[key])
    for key, title in (('by_category', 'by category'), ('by_voice', 'by voice'))
    if metrics.get(key)
  ]
  widths = [len(values) + 1 for _, values in panels]
  figure = _figure(9.6, 2.4)
  grid = figure.add_gridspec(1, len(panels), width_ratios=widths)
  for i, (title, values) in enumerate(panels):
    axes = _styled(figure.add_subplot(grid[0, i]), title)
    x = np.arange(len(values))
    for shift, key, colour, label in (
      (-0.2, 's2t_exact_match', BLUE, 'text of the answer'),
      (0.2, 's2s_exact_match', ORANGE, 'heard in the answer'),
    ):
      axes.bar(x + shift, [v[key] for v in values.values()], width=0.38, color=colour, label=label)
    axes.set_xticks(x, [f'{name}\n({v["questions"]})' for name, v in values.items()], fontsize=7)
    axes.set_ylim(0, 1.25)
    axes.set_yticks(np.arange(6) / 5)
    if i == 0:
      axes.legend(fontsize=7, frameon=False, loc='upper left', ncols=2)
  return _png(figure)


def timeline(reply: Mapping[str, Any]) -> bytes:
  """How one answer streamed: tokens and their trigger scores, cuts, and when each slice was
  synthesised and heard.
  """
  figure = _figure(9.6, 3.4)
  grid = figure.add_gridspec(3, 1, height_ratios=[1.5, 1, 0.8])
  score, work, sound = (
    _styled(figure.add_subplot(grid[i, 0]), title)
    for i, title in enumerate(
      (
        'trigger score of each text token; dashed: the previous slice is complete',
        'computing',
        'listening',
      )
    )
  )
  colours = [(ORANGE, GREEN, RED)[i % 3] for i in range(len(reply['slices']))]
  times, first, done = reply['token_times_s'], reply['first_audio_s'], reply['finished_s']
  score.plot(times, reply['scores'], color=BLUE, lw=1, marker='o', markersize=3)
  work.broken_barh([(0, max(times, default=0))], (1, 0.7), facecolors=BLUE)
  starts, until = [], 0.0
  for part in reply['slices']:  # a slice is heard once it is ready and the one before has ended
    starts.append(max(part['ready_at_s'], until))
    until = starts[-1] + part['audio_s']
  end = 1.02 * max(until, done, 0.01)
  for part, colour, start in zip(reply['slices'], colours, starts):
    score.axvline(part['cut_at_s'], color=colour, lw=1.2, ls='--')
    work.broken_barh(
      [(part['cut_at_s'], part['ready_at_s'] - part['cut_at_s'])], (0, 0.7), facecolors=colour
    )
    sound.broken_barh([(start, part['audio_s'])], (0, 0.7), facecolors=colour, alpha=0.6)
    sound.text(
      start + part['audio_s'] / 2,
      0.35,
      _shorten(part['text'], part['audio_s'], end),
      ha='center',
      va='center',
      fontsize=7.5,
      color=INK,
      parse_math=False,
    )
  for axes in (score, work):
    axes.set_xlim(0, 1.02 * max(done, 0.01))
    if first is not None:
      axes.axvline(first, color=INK, lw=1.2)
  if first is not None:
    score.text(
      first,
      1.04,
      f' first sound {first:.2f} s',
      fontsize=8,
      color=INK,
      ha='right' if first > 0.7 * done else 'left',
      transform=score.get_xaxis_transform(),
    )
  score.tick_params(labelbottom=False)
  work.set_yticks([1.35, 0.35], ['text', 'speech'])
  sound.set_xlim(0, end)
  sound.set_yticks([])
  sound.set_xlabel('seconds since the question was given', color=GREY)
  return _png(figure)


def spectrograms(waves: Mapping[str, np.ndarray], rate: int = rates.SAMPLE_RATE) -> bytes:
  """Log-power spectrograms of named float[samples] waves, one below the other on one time scale."""
  figure = _figure(9.6, 1.35 * len(waves) + 0.3)
  longest = max(len(wave) for wave in waves.values()) / rate
  for i, (name, wave) in enumerate(waves.items()):
    axes = _axes(figure, len(waves), 1, i + 1, name)
    n_fft, hop = 512, 160
    padded = np.pad(wave, (0, max(0, n_fft - len(wave))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop] * np.hanning(n_fft)
    power = 20 * np.log10(np.abs(np.fft.rfft(frames)) + 1e-5).T
    axes.imshow(
      power,
      origin='lower',
      aspect='auto',
      cmap='magma',
      extent=(0, len(frames) * hop / rate, 0, rate / 2000),
      vmin=power.max() - 75,
      vmax=power.max(),
      interpolation='nearest',
    )
    axes.set_xlim(0, longest)
    axes.grid(False)
    axes.set_ylabel('kHz', color=GREY)
    if i + 1 < len(waves):
      axes.tick_params(labelbottom=False)
    else:
      axes.set_xlabel('seconds', color=GREY)
  return _png(figure)


def unit_languages(rows: Sequence[Mapping[str, Any]]) -> bytes:
  """How many reduced units each unit language leaves, from `launch.bench unit_language`: over the
  longest word, and over the vocabulary.
  """
  figure = _figure(9.6, 3.2)

  def share(row):
    return row['held_out']['share']

  sizes, longest = sorted({row['asked'] for row in rows}), sorted({row['k'] for row in rows})
  colours = (GREY, ORANGE, GREEN, BLUE, RED, INK)
  for place, (over, lines, title) in enumerate(
    (
      ('k', 'asked', 'longest word (units), one line per vocabulary'),
      ('asked', 'k', 'vocabulary (words), one line per longest word'),
    ),
    1,
  ):
    axes = _axes(figure, 1, 2, place, 'unit words per reduced unit, held-out speech')
    for i, value in enumerate(sizes if lines == 'asked' else longest):
      points = sorted(
        (row[over], share(row)) for row in rows if row[lines] == value and row['kind'] == 'ngram'
      )
      axes.plot(
        *zip(*points),
        color=colours[i % len(colours)],
        lw=1.4,
        marker='o',
        markersize=3,
        label=f'{value:,}',
      )
    axes.set_xlabel(title, color=GREY)
    if over == 'asked':
      axes.plot(
        *zip(*sorted((row['asked'], share(row)) for row in rows if row['kind'] == 'bpe')),
        color=INK,
        lw=1,
        ls='--',
        label='BPE',
      )
      axes.set_xscale('log')
      axes.set_xticks(sizes, [f'{size:,}' for size in sizes])
      axes.minorticks_off()
    axes.legend(fontsize=7, frameon=False)
  return _png(figure)


def shares(panels: Mapping[str, Sequence[tuple[str, Mapping[str, Sequence[float]]]]]) -> bytes:
  """Shares with intervals, one panel per question, one line per variant.

  Args:
    panels: title -> (variant, {split: (mean, low, high)}) of each line.
  """
  sizes = [len(rows) + 1.2 for rows in panels.values()]
  figure = _figure(9.6, 0.34 * sum(sizes))
  grid = figure.add_gridspec(len(panels), 1, height_ratios=sizes)
  for place, (title, rows) in enumerate(panels.items()):
    axes = _styled(figure.add_subplot(grid[place, 0]), title)
    for number, split in enumerate(dict.fromkeys(name for _, row in rows for name in row)):
      colour = (BLUE, ORANGE, GREEN, RED)[number % 4]
      points = [(y, row[split]) for y, (_, row) in enumerate(rows) if split in row]
      middle = np.asarray([mean for _, (mean, _, _) in points])
      ends = np.asarray([(low, high) for _, (_, low, high) in points]).T
      axes.errorbar(
        middle,
        [y + 0.16 * number for y, _ in points],
        xerr=np.nan_to_num(np.abs(ends - middle)),
        fmt='o',
        color=colour,
        markersize=3.5,
        lw=1.4,
        label=split,
      )
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    if place == 0:
      above = dict(loc='lower right', bbox_to_anchor=(1, 1), ncols=4)
      axes.legend(fontsize=7, frameon=False, **above)
  return _png(figure)


def latency(rows: Sequence[tuple[str, float, Mapping[str, Sequence[float]]]], axis: str) -> bytes:
  """Shares over latency: (name, latency, {split: (mean, low, high)}) of each point; `axis` tells
  what the latency is.
  """
  splits = tuple(dict.fromkeys(split for _, _, found in rows for split in found))
  figure = _figure(9.6, 3.3)
  for place, split in enumerate(splits, 1):
    axes = _axes(figure, 1, len(splits), place, f'right answers, {split}')
    for number, (name, at, found) in enumerate(rows):
      mean, low, high = found[split]
      axes.errorbar(
        at,
        mean,
        yerr=np.nan_to_num([[mean - low], [high - mean]]),
        fmt='o',
        color=(BLUE, ORANGE, GREEN, RED, GREY, INK)[number % 6],
        markersize=4,
        lw=1.2,
        label=name,
      )
    axes.set_xlabel(axis, color=GREY)
  names = axes.get_legend_handles_labels()  # the same in each split
  figure.legend(*names, loc='outside lower center', ncols=3, fontsize=7, frameon=False)
  return _png(figure)


def _shorten(text: str, seconds: float, whole: float) -> str:
  """As much of `text` as fits into a bar of `seconds` in a figure of `whole` seconds."""
  room = int(115 * seconds / whole)
  return text if len(text) <= room else text[: room - 1] + '…' if room > 3 else ''


def check_installed() -> None:
  """Raises MissingExtraError if figures cannot be drawn; call it before long work."""
  require('matplotlib', 'demo', 'Drawing the report')


def _figure(width: float, height: float):
  check_installed()
  from matplotlib.figure import Figure

  return Figure(figsize=(width, height), layout='constrained')


def _axes(figure, rows: int, columns: int, index: int, title: str):
  return _styled(figure.add_subplot(rows, columns, index), title)


def _styled(axes, title: str):
  axes.set_title(title, fontsize=9, color=INK, loc='left', parse_math=False)
  axes.tick_params(labelsize=7.5, colors=INK, length=2)
  axes.grid(color=GRID, lw=0.6)
  axes.set_axisbelow(True)
  axes.xaxis.label.set_size(8)
  axes.yaxis.label.set_size(8)
  for side, spine in axes.spines.items():
    spine.set_visible(side in ('left', 'bottom'))
    spine.set_color(GREY)
  return axes


def _png(figure) -> bytes:
  out = io.BytesIO()
  figure.savefig(out, format='png', dpi=150, metadata={'Software': None})
  return out.getvalue()
