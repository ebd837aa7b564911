"""The state of a run (`status.collect`) as plain text, and as a page."""

from collections.abc import Mapping, Sequence
import html
import time
from typing import Any

from echox_jax.evaluation import pages
from echox_jax.monitoring.health import seconds

Report = Mapping[str, Any]

_COLUMNS = (
  'stage',
  'state',
  'step',
  'loss',
  'held out',
  'step time',
  'goodput',
  'saving',
  'checkpoint',
  'left',
)
_PROCESS_COLUMNS = ('process', 'host', 'state', 'doing', 'step', 'step time', 'data', 'heartbeat')
_WIDTH, _HEIGHT, _MARGIN = 640, 150, 6
_BLUE, _ORANGE = '#2f6db3', '#e08a2b'


def in_text(report: Report) -> str:
  """Returns lines for a terminal."""
  lines = [_heading(report), '']
  rows = [_COLUMNS, *map(_row, _jobs(report))]
  widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
  lines += [
    '  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
  ]
  lines += ['', *(_sentences(report) or ['Nothing is wrong.'])]
  return '\n'.join(lines)


def in_html(report: Report) -> str:
  """Returns a page without foreign parts."""
  jobs = _jobs(report)
  sentences = ''.join(f'<p class="missed">{html.escape(line)}</p>' for line in _sentences(report))
  curves = [
    (
      f'Loss of {job["name"]}',
      _curves({_BLUE: job['curve'], _ORANGE: job['eval_curve']}) if job.get('curve') else '',
    )
    for job in jobs
  ]
  processes = [
    (
      f'Processes of {job["name"]}',
      _table(_PROCESS_COLUMNS, [_process(beat, report['time']) for beat in job['processes']])
      if job['processes']
      else '',
    )
    for job in jobs
  ]
  sections = [
    ('Problems', sentences or '<p class="ok">Nothing is wrong.</p>'),
    ('Stages', _table(_COLUMNS, map(_row, jobs))),
    *curves,
    *processes,
  ]
  return pages.page(f'Status of {report["workdir"]}', 'EchoX', _heading(report), sections)


def _heading(report: Report) -> str:
  goodput = '' if report['goodput'] is None else f', goodput {report["goodput"]:.1%}'
  return f'{report["workdir"]} at {_clock(report["time"])}{goodput}'


def _jobs(report: Report) -> list[Report]:
  precompute = [report['precompute']] if report['precompute'] else []
  return [*report['corpus'], *precompute, *report['stages']]


def _sentences(report: Report) -> list[str]:
  """What is wrong, and what failed last."""
  lines = list(report['problems'])
  for stage in report['stages']:
    if stage['bad_batches']:
      numbers = ', '.join(map(str, stage['bad_batches']))
      lines.append(
        f'{stage["name"]}: the loss was not finite on batch {numbers} '
        f'(see {report["workdir"]}/{stage["name"]}/not_finite).'
      )
  failure = report['last_failure']
  if failure:
    lines.append(
      f'last failure, {_clock(failure["time"])}, {failure["job"]}, process {failure["process"]} '
      f'on {failure["host"]}, after step {failure["step"]}: {failure["error"]}'
    )
  return lines


def _row(job: Report) -> tuple[str, ...]:
  """The cells of a stage, or of another job, which has only the first ones."""
  if 'steps' not in job:
    done = sum(beat['step'] for beat in job['processes'])
    return (job['name'], job['state'], f'{done} ({job["stage"]})', *[''] * (len(_COLUMNS) - 3))
  left = job['seconds_left'] if job['state'] == 'running' else None
  return (
    job['name'],
    job['state'],
    f'{job["step"]} / {"?" if job["steps"] is None else job["steps"]}',
    _number(job['loss']),
    _number(job['eval_loss']),
    '' if job['step_time'] is None else seconds(job['step_time']),
    _share(job['goodput']),
    _share(job['saving']),
    '' if job['last_checkpoint'] is None else str(job['last_checkpoint']),
    '' if left is None else seconds(left),
  )


def _process(beat: Report, now: float) -> tuple[str, ...]:
  def duration(name):
    return '' if beat[name] is None else seconds(beat[name])

  return (
    f'{beat["process"]} / {beat["processes"]}',
    beat['host'],
    beat['state'],
    beat['doing'],
    str(beat['step']),
    duration('step_seconds'),
    duration('data_seconds'),
    f'{seconds(max(now - beat["time"], 0.0))} ago',
  )


def _number(value: float | None) -> str:
  return '' if value is None else f'{value:.4g}'


def _share(value: float | None) -> str:
  return '' if value is None else f'{value:.1%}'


def _clock(moment: float) -> str:
  return time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(moment))


def _table(columns: Sequence[str], rows) -> str:
  def cells(tag, row):
    return '<tr>' + ''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in row) + '</tr>'

  return f'<table>{cells("th", columns)}{"".join(cells("td", row) for row in rows)}</table>'


def _curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> str:
  """Losses over steps as an SVG; `curves`: colour -> points."""
  points = [point for curve in curves.values() for point in curve]
  last = max(step for step, _ in points)
  low, high = (f(loss for _, loss in points) for f in (min, max))

  def place(step, loss):
    x = _MARGIN + (_WIDTH - 2 * _MARGIN) * step / max(last, 1)
    y = _MARGIN + (_HEIGHT - 2 * _MARGIN) * (high - loss) / ((high - low) or 1.0)
    return f'{x:.1f},{y:.1f}'

  lines = ''.join(
    f'<polyline fill="none" stroke="{colour}" stroke-width="1.4" '
    f'points="{" ".join(place(*point) for point in curve)}"/>'
    for colour, curve in curves.items()
    if curve
  )
  return (
    f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{lines}</svg>'
    f'<p class="grey">From {low:.4g} to {high:.4g} over {last} steps; blue: training, '
    'orange: held out.</p>'
  )
