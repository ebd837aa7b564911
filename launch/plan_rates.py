"""Measured rates for `launch.plan`: reads them from the reports of other commands."""

from collections.abc import Iterable, Mapping
import dataclasses
import json
from typing import Any

from echox_jax import errors, storage
from echox_jax.rates import SAMPLE_RATE
from echox_jax.storage import Path
from echox_jax.training import layout, records
from launch.machines import Machines

MEASURED, PREDICTED, ASSUMED, COMPUTED = 'measured', 'predicted', 'assumed', 'computed'


@dataclasses.dataclass(frozen=True)
class Figure:
  """A number and where it comes from.

  Attributes:
    value: in the unit of its name.
    basis: `measured`, `predicted` (by FLOPs), `assumed` or `computed` (from sizes alone).
    source: file, formula or reason.
  """

  value: float
  basis: str
  source: str


def _assumed(value: float, reason: str) -> Figure:
  return Figure(value, ASSUMED, reason)


# What is taken where nothing has been measured. Units: seconds of speech a second of one core
# (`read_in`, `load`), of one host (`language`, `records`, and `units` where a working folder
# measured it); seconds (`answer`, `question`); shares of the chip's peak (`mfu`).
DEFAULTS = {
  'read_in': _assumed(50.0, 'decoding one lossless file a time, and writing it'),
  'answer': _assumed(0.2, 'a model of 135 million parameters, many at once on two cores'),
  'load': _assumed(263.0, 'the slowest format in data_pipeline/README.md'),
  'language': _assumed(2000.0, 'counting words and fitting a unit language'),
  'records': _assumed(500.0, 'writing units and unit words'),
  'question': _assumed(2.0, 'a written and a spoken answer, and the judge'),
  'mfu.encode': _assumed(0.3, 'the frozen encoders of precompute'),
}


def read(
  files: Iterable[str], workdir: str | None, here: Machines | None = None
) -> dict[str, Figure]:
  """Rates of the names in `DEFAULTS`, `units`, `mfu.STAGE`, `mfu_bound.STAGE` and `goodput.STAGE`;
  later files win, and the working folder wins over all.

  Args:
    files: JSON written by `launch.bench precompute`, `loader`, `unit_language` or
      `launch.compile_check`, or an object of such names and numbers.
    workdir: a working folder whose corpus, precompute, stages and evaluation have run or still run,
      on hosts and chips like those of the plan.
    here: this machine, if it is what the working folder has run on.

  Raises:
    DataError: a file is missing, damaged, or of another kind.
  """
  found = dict(DEFAULTS)
  for file in files:
    found |= _from_report(file, _load(storage.check_readable(file)))
  return found | (_from_workdir(storage.check_readable(workdir), here) if workdir else {})


def _load(path: Path) -> Any:
  try:
    return json.loads(path.read_text())
  except (FileNotFoundError, ValueError) as error:
    raise errors.DataError(
      f'{path} is missing or is not JSON: name a file that `python -m launch.bench ... --json` or '
      '`python -m launch.compile_check ... --json` wrote.'
    ) from error


def _from_report(file: str, report: Any) -> dict[str, Figure]:
  """The rates in one report, recognised by its keys."""

  def measured(value):
    return Figure(float(value), MEASURED, file)

  if not isinstance(report, Mapping):
    report = {}
  if 'mfu_bound' in report and report.get('step') == 'train':
    if report['mfu_bound'] is None:
      return {}
    bound = Figure(report['mfu_bound'], PREDICTED, f'{file}, at most')
    return {f'mfu_bound.{report["stage"]}': bound}
  if 'realtime_per_core' in report:
    return {'load': measured(report['realtime_per_core'])}
  if 'ours' in report and 'audio_minutes' in report:  # launch.bench precompute
    speech, parts = 60 * report['audio_minutes'], report['ours']['parts']
    rates = {'read_in': speech / (parts['decode and write'] * report['threads'])}
    rates |= _host_rates(speech, speech, parts)
    return {name: measured(value) for name, value in rates.items()}
  if 'curve' in report and 'fit_seconds' in report:  # launch.bench unit_language
    fitted = 3600 * max(report['hours'].values()) * len(report['curve'])
    return {'language': measured(fitted / report['fit_seconds'])}
  if report and all(isinstance(value, int | float) for value in report.values()):
    unknown = [name for name in report if name not in DEFAULTS and not name.startswith('mfu.')]
    if not unknown:
      return {name: measured(value) for name, value in report.items()}
    raise errors.DataError(
      f'{file} names the rate {unknown[0]!r}: use {", ".join(DEFAULTS)} or mfu.STAGE.'
    )
  raise errors.DataError(
    f'{file} is no report with rates: name one of `python -m launch.bench precompute`, `loader` or '
    '`unit_language`, of `python -m launch.compile_check`, or an object of names and numbers.'
  )


def _host_rates(units: float, all_speech: float, seconds: Mapping[str, float]) -> dict[str, float]:
  """Seconds of speech a second of one process, from the seconds of the steps of precompute."""
  spent = {
    'language': sum(v for name, v in seconds.items() if name == 'unit language'),
    'records': sum(v for name, v in seconds.items() if name.startswith('data set ')),
  }
  speech = {'language': units, 'records': all_speech}
  return {name: speech[name] / spent[name] for name in spent if spent[name] and speech[name]}


def _from_workdir(folder: Path, here: Machines | None) -> dict[str, Figure]:
  """What the jobs of a working folder measured of themselves."""
  found = _from_corpus(folder / layout.DATA / layout.PARTS, here)
  file = folder / 'precomputed' / 'precompute.json'
  if storage.is_file(file):
    written = _load(file)
    seconds = {name: step['seconds'] for name, step in written['steps'].items()}
    sets = {name: row['seconds'] for name, row in written['report']['sets'].items()}
    spoken = sum(v for name, v in sets.items() if f'units:{name}' in seconds)
    measured = _host_rates(spoken, sum(sets.values()), seconds)
    encoding = sum(v for name, v in seconds.items() if name.startswith('units:'))
    if encoding and spoken:
      measured['units'] = spoken / encoding
    found |= {name: Figure(value, MEASURED, str(file)) for name, value in measured.items()}
  file = folder / 'evaluation.json'
  if storage.is_file(file):
    written = _load(file)
    asked = written.get('questions')
    if asked:
      found['question'] = Figure(written['seconds']['total'] / asked, MEASURED, str(file))
  for stage in [path.name for path in storage.children(folder)]:
    kept = records.read(folder / stage / layout.METRICS)
    trained = [record for record in kept if record['kind'] == 'train']
    shares = [(record, _mfu(record, here)) for record in trained]
    windows = [record for record, share in shares if share]
    if windows:
      mean = sum(share for _, share in shares if share) / len(windows)
      where = f'{folder / stage}, {len(windows)} windows'
      found[f'mfu.{stage}'] = Figure(mean, MEASURED, where)
      found[f'goodput.{stage}'] = Figure(windows[-1]['goodput'], MEASURED, where)
  return found


def _mfu(record: Mapping[str, Any], here: Machines | None) -> float | None:
  """The share of the peak in a window of training; jobs on a CPU do not know their peak."""
  if 'mfu' in record or here is None or 'model_flops_per_second' not in record:
    return record.get('mfu')
  return record['model_flops_per_second'] / (here.chips * here.chip.peak_flops)


def _from_corpus(parts: Path, here: Machines | None) -> dict[str, Figure]:
  """What the jobs that make a corpus have noted of their shards, if they ran on this machine."""
  if here is None:
    return {}
  notes = [_load(file) for file in storage.tree(parts, '*.json') if layout.NOTES in file.parts]
  found = {}
  for rate, measure in (('read_in', 'samples'), ('answer', 'questions')):
    own = [note for note in notes if measure in note['measured']]
    seconds = sum(note['seconds'] for note in own)
    amount = sum(note['measured'][measure] for note in own)
    if seconds and amount:
      speech = amount / (SAMPLE_RATE * seconds * here.cores_per_host)
      value = speech if rate == 'read_in' else seconds / amount
      found[rate] = Figure(value, MEASURED, f'{parts}, {len(own)} shards')
  return found
