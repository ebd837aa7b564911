"""A plan on paper: hours, hosts, bytes and price of the whole way, before anything is rented.

  python -m launch.plan --config=configs/echox_8b.py --chip=v5e --chips=16 --mfu=0.4
                        [--rates FILE.json ...] [--workdir W] [--data W/data | --sources FILE.json]
                        [--price_per_chip_hour=P ...] [--json=FILE] [--config.FIELD=VALUE ...]

--chip=here plans for this machine as it is, CPU or accelerator, without --chips.

Computes from rates, in this order of trust: what the jobs of the working folder W measured of
themselves (on hosts and chips like those of the plan), also while they still run; the reports
FILE.json of `launch.bench precompute`, `loader` and `unit_language` and of `launch.compile_check`;
`--mfu`; assumptions. Every figure says which of these it is: measured (where), predicted by FLOPs,
assumed, or computed from sizes alone.

The sets are those of the paper, 6,194 hours, unless --data or --sources names others. Steps of
training come from the config, FLOPs of a step from `echox_jax/training/flops.py`, for the largest
batch. Steps run one after the other; no price is known unless you give it.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import json
from typing import Any

from configs import paper
from data_pipeline import dataset
from echox_jax import errors, storage
from echox_jax.parallel import chips
from echox_jax.parallel.chips import Chip
from echox_jax.training import stages, validation
from echox_jax.training.experiment import ExperimentConfig
from launch import cli, machines, plan_lines, plan_rates, train
from launch.plan_rates import Figure

_STAGES = 's2t,t2c,echo,vocoder'
HERE = 'here'  # the chip of this machine


def make(
  args: argparse.Namespace, options: Sequence[str], sources: Sequence[paper.Source] | None = None
) -> dict[str, Any]:
  """The plan: `inputs`, `steps`, `storage` and `total` (see `--json`).

  Args:
    args, options: as `parse` gives them.
    sources: of speech; None = those that the options name.

  Raises:
    EchoXError: an unknown chip, stage, set or field, or a missing rate.
  """
  experiments = [
    read_experiment(args.config, stages.get_stage(name).name, options)
    for name in args.stages.split(',')
  ]
  on = _machines(args)
  found = plan_rates.read(args.rates, args.workdir, on if args.chip == HERE else None)
  if args.mfu is not None:
    given = Figure(_share('--mfu', args.mfu), plan_rates.ASSUMED, '--mfu')
    found |= {'mfu': given, 'mfu.encode': given}
  if sources is None:
    sources = read_sources(args.data, args.sources)
  answered = [plan_lines.answering(args.answers, found)] if args.answers else []
  steps = [
    *answered,
    plan_lines.reading_in(sources, found, on),
    *plan_lines.precompute(experiments[0], sources, found, on),
    *(plan_lines.stage(experiment, sources, found, on) for experiment in experiments),
    plan_lines.evaluation(args.questions, found),
  ]
  stored = plan_lines.storage(experiments, sources)
  return {
    'inputs': {
      'config': args.config,
      'chip': on.chip.name,
      'chips': on.chips,
      'hosts': on.hosts,
      'cores_per_host': on.cores_per_host,
      'cpu_hosts': on.cpu_hosts,
      'goodput': on.goodput,
      'sources': [dataclasses.asdict(source) for source in sources],
    },
    'steps': [dataclasses.asdict(line) | {'price': _price(line, on, args)} for line in steps],
    'storage': [dataclasses.asdict(row) for row in stored],
    'total': _total(steps, stored, on, args),
  }


def read_sources(data: str | None, file: str | None) -> list[paper.Source]:
  """The sources of --data or --sources, or those of the paper.

  Raises:
    DataError: the folder has no data sets, or the file does not list sources.
  """
  if data:
    found = []
    for folder in storage.children(storage.check_readable(data)):
      if dataset.dataset_exists(data, folder.name):
        splits = dataset.manifest(data, folder.name)['splits'].values()
        items, hours = (sum(split[key] for split in splits) for key in ('examples', 'hours'))
        found.append(paper.Source(folder.name, items, hours))
    if not found:
      raise errors.DataError(
        f'{data} has no data sets: name a folder that `python -m launch.corpus` wrote.'
      )
    return found
  if file:
    try:
      return [paper.Source(**row) for row in json.loads(storage.check_readable(file).read_text())]
    except (FileNotFoundError, ValueError, TypeError) as error:
      raise errors.DataError(
        f'{file} is no list of sources: write a JSON list of {{"name", "items", "hours"}}.'
      ) from error
  return list(paper.SOURCES)


def read_experiment(config: str, stage: str, options: Sequence[str]) -> ExperimentConfig:
  """The checked job of one stage, with the fields of the command line."""
  arguments = ['launch.plan', f'--config={config}:{stage}', '--workdir=unused', *options]
  experiment = train.parse(arguments, 'launch.plan')[0]
  validation.check(experiment)
  return experiment


def find_chip(name: str) -> Chip:
  """The chip of a name in `echox_jax/parallel/chips.py`.

  Raises:
    ConfigError: there is none.
  """
  for chip in chips.CHIPS:
    if chip.name.lower() == name.lower():
      return chip
  known = ', '.join(chip.name for chip in chips.CHIPS)
  raise errors.ConfigError(f'--chip is {name!r}: use one of {known}.')


def _machines(args: argparse.Namespace) -> machines.Machines:
  for name in ('chips', 'chips_per_host', 'cores_per_host', 'cpu_hosts', 'questions'):
    if (value := getattr(args, name)) is not None and value < 1:
      raise errors.ConfigError(f'--{name} is {value}: give 1 or more.')
  goodput = _share('--goodput', args.goodput)
  if args.chip == HERE:
    return machines.here(goodput)
  chip = find_chip(args.chip)
  if args.chips is None:
    raise errors.ConfigError(f'--chips is missing: say how many {chip.name} there will be.')
  return machines.Machines(
    chip=chip,
    chips=args.chips,
    hosts=-(-args.chips // args.chips_per_host),
    cores_per_host=args.cores_per_host,
    cpu_hosts=args.cpu_hosts,
    goodput=goodput,
  )


def _share(name: str, value: float) -> float:
  if not 0 < value <= 1:
    raise errors.ConfigError(f'{name} is {value}: give a share above 0 and up to 1.')
  return value


def _price(line: plan_lines.Line, on: machines.Machines, args: argparse.Namespace) -> float | None:
  """Of a step: all chips of the slice are paid while it runs, or all cores of the CPU hosts."""
  if line.where == plan_lines.SLICE:
    each, count = args.price_per_chip_hour, on.chips
  else:
    each, count = args.price_per_core_hour, line.hosts * on.cores_per_host
  return None if each is None else each * count * line.hours


def _total(
  steps: Sequence[plan_lines.Line],
  stored: Sequence[plan_lines.Stored],
  on: machines.Machines,
  args: argparse.Namespace,
) -> dict[str, float | None]:
  size, monthly = sum(row.size.value for row in stored), args.price_per_gb_month
  lines = {where: [x for x in steps if x.where == where] for where in plan_lines.WHERE}

  def price(where):
    prices = [_price(line, on, args) for line in lines[where]]
    return None if None in prices else sum(prices)

  return {
    'hours': sum(line.hours for line in steps),
    'chip_hours': on.chips * sum(line.hours for line in lines[plan_lines.SLICE]),
    'core_hours': on.cores_per_host
    * sum(line.hosts * line.hours for line in lines[plan_lines.CPU_HOSTS]),
    'bytes': size,
    'price_of_slice': price(plan_lines.SLICE),
    'price_of_cpu_hosts': price(plan_lines.CPU_HOSTS),
    'price_of_storage_a_month': None if monthly is None else monthly * size / 1e9,
  }


def show(plan: dict[str, Any]) -> str:
  """The plan as text."""
  given, total = plan['inputs'], plan['total']
  hours = sum(source['hours'] for source in given['sources'])
  rows = [('step', 'work', 'where', 'hosts', 'hours', 'price', 'rests on')]
  for line in plan['steps']:
    rows.append(
      (
        line['step'],
        line['work'],
        line['where'],
        f'{line["hosts"]}',
        f'{line["hours"]:,.2f}',
        _money(line['price']),
        '; '.join(_told(name, figure) for name, figure in line['figures'].items()),
      )
    )
  kept = [('kept', 'GB', 'rests on')]
  for row in plan['storage']:
    figure = row['size']
    why = f'{figure["basis"]}: {figure["source"]}'
    kept.append((row['what'], f'{figure["value"] / 1e9:,.1f}', why))
  return '\n'.join(
    [
      f'{given["config"]}: {hours:,.0f} hours of speech on {given["chips"]} x {given["chip"]} '
      f'({given["hosts"]} hosts) and {given["cpu_hosts"]} CPU hosts, {given["cores_per_host"]} '
      'cores each. A plan on paper: nothing was run.',
      '',
      *_table(rows),
      '',
      *_table(kept),
      '',
      f'together: {total["hours"]:,.1f} hours one after the other, {total["chip_hours"]:,.0f} chip '
      f'hours, {total["core_hours"]:,.0f} core hours, {total["bytes"] / 1e9:,.0f} GB',
      f'prices: slice {_money(total["price_of_slice"])}, CPU hosts '
      f'{_money(total["price_of_cpu_hosts"])}, storage a month '
      f'{_money(total["price_of_storage_a_month"])}',
    ]
  )


def _told(name: str, figure: dict[str, Any]) -> str:
  return f'{name} {figure["value"]:.4g} {figure["basis"]} ({figure["source"]})'


def _money(price: float | None) -> str:
  return 'not given' if price is None else f'{price:,.2f}'


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
  widths = [max(map(len, column)) for column in zip(*rows)]
  return ['  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def parse(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
  """The options of the plan, and the fields of the config."""
  parser = argparse.ArgumentParser(
    prog='python -m launch.plan',
    description=__doc__,
    allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--config', required=True, metavar='FILE.py', help='config, without a stage')
  parser.add_argument('--stages', default=_STAGES, help='in order (default %(default)s)')
  parser.add_argument(
    '--chip',
    required=True,
    help=f'one of {", ".join(chip.name for chip in chips.CHIPS)}, or {HERE}: this machine',
  )
  parser.add_argument('--chips', type=int, help='of all slices together')
  parser.add_argument(
    '--chips_per_host', type=int, default=4, help='(default %(default)s, as on TPU slices)'
  )
  parser.add_argument(
    '--cores_per_host', type=int, default=32, help='of every host (default %(default)s)'
  )
  parser.add_argument(
    '--cpu_hosts', type=int, default=4, help='that read in recordings (default %(default)s)'
  )
  parser.add_argument(
    '--mfu', type=float, help="share of the chips' peak, where no working folder has measured it"
  )
  parser.add_argument(
    '--goodput', type=float, default=1.0, help='share of the time that is not lost (default 1)'
  )
  parser.add_argument(
    '--rates', nargs='+', default=[], metavar='FILE', help='JSON reports, or names and numbers'
  )
  parser.add_argument('--workdir', metavar='W', help='working folder that measured itself')
  parser.add_argument('--data', metavar='DIR', help='plan for the data sets of this folder')
  parser.add_argument(
    '--sources', metavar='FILE', help='plan for these: a JSON list of {"name", "items", "hours"}'
  )
  parser.add_argument(
    '--questions', type=int, default=1000, help='of the evaluation (default %(default)s)'
  )
  parser.add_argument(
    '--answers', type=int, default=0, help='that a text model writes for the corpus (default 0)'
  )
  parser.add_argument('--price_per_chip_hour', type=float, metavar='P', help='in your currency')
  parser.add_argument('--price_per_core_hour', type=float, metavar='P', help='of the CPU hosts')
  parser.add_argument('--price_per_gb_month', type=float, metavar='P', help='of the bucket')
  parser.add_argument('--json', metavar='FILE', help='also write the plan to this file')
  return parser.parse_known_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
  args, options = parse(argv)
  plan = make(args, options)
  print(show(plan))
  if args.json:
    storage.atomic_write_json(args.json, plan)


if __name__ == '__main__':
  cli.run(main)
