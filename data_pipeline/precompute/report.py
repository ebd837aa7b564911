"""Reports the measurements of precompute, as JSON and as text."""

from typing import Any

from data_pipeline import provenance
from data_pipeline.fingerprints import fingerprint
from data_pipeline.precompute.job import LANGUAGE, MANIFEST, REPORT, Job
from echox_jax import rates, storage, tokenizer


def write_report(job: Job) -> dict[str, Any]:
  """Adds up the measurements; writes them and the manifest."""
  report = _measured(job)
  if job.work.index == 0:
    storage.atomic_write_json(
      job.folder / REPORT,
      {'steps': {k: {'seconds': v} for k, v in job.work.seconds.items()}, 'report': report},
    )
  content = provenance.describe(job.work, job.products, job.experiment)
  job.work.run(
    'manifest',
    {job.folder / MANIFEST: fingerprint(content)},
    lambda _, beside: provenance.write(beside, content),
    here=True,
  )
  return {
    **report,
    'step_seconds': job.work.seconds,
    'ran': [step for step in job.work.ran if step != 'manifest'],
  }


def _measured(job: Job) -> dict[str, Any]:
  """The measurements, from the notes of all files."""
  report, units = {'sets': {}}, job.unit_parts(*job.choices.unit_sets)
  measured = job.work.measured
  for name in job.sets:
    outputs = [
      *(job.unit_parts(name) if name in job.choices.unit_sets else ()),
      *job.record_files(name),
    ]
    report['sets'][name] = {
      'clips': measured(outputs, 'clips'),
      'seconds': round(measured(outputs, 'seconds'), 1),
    }
  if units:
    seconds = measured(units, 'frames') * rates.UNIT_HOP / rates.SAMPLE_RATE
    words = sum(measured(job.record_files(name), 'words') for name in job.choices.unit_sets)
    report |= job.work.note(job.folder / LANGUAGE)['measured']
    report |= {
      'units_per_second': round(measured(units, 'reduced') / seconds, 2),
      'unit_words_per_second': round(words / seconds, 2),
    }
  return report | {'tokenizer_vocab_size': tokenizer.precomputed_tokenizer(job.folder).vocab_size}


def summary(report: dict[str, Any]) -> str:
  """The report as text."""
  lines = [
    f'{name}: {c["clips"]} clips, {c["seconds"] / 60:.1f} min of speech'
    for name, c in report.get('sets', {}).items()
  ]
  if 'units_per_second' in report:
    lines.append(
      f'{report["units_per_second"]} reduced units and '
      f'{report["unit_words_per_second"]} unit words per second of speech'
    )
    lines += [
      f'unit language {name}: {c["units_per_word"]} reduced units per word'
      for name, c in report['compression'].items()
    ]
  lines.append(
    f'{sum(report["step_seconds"].get(step, 0) for step in report["ran"]):.0f} s; '
    + (f'done: {", ".join(report["ran"])}' if report['ran'] else 'everything was there already')
  )
  return '\n'.join(lines)
