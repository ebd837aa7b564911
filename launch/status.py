"""Shows how a run stands: stages, steps, losses, goodput, checkpoints, and what is wrong.

  python -m launch.status WORKDIR [--json FILE] [--html FILE]

WORKDIR is the working folder (--workdir) of launch.precompute, launch.train or launch.pipeline, or
the folder of data sets (--data) of launch.corpus. The command only reads, from any machine that
sees the folder, and needs neither JAX nor the run itself. It names lost, stalled and slow processes
and the last failure.

goodput is the share of a job's time, interruptions included, that was spent in steps that counted;
saving is the share in which training waited for checkpoints.
"""

import argparse
import time

from echox_jax import storage
from echox_jax.monitoring import status, views
from launch import cli


def main() -> None:
  parser = argparse.ArgumentParser(
    prog='python -m launch.status',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('workdir', metavar='WORKDIR', help='working folder of the run')
  parser.add_argument(
    '--json', type=storage.check_writable, metavar='FILE', help='also write the state as JSON'
  )
  parser.add_argument(
    '--html', type=storage.check_writable, metavar='FILE', help='also write a page'
  )
  args = parser.parse_args()
  report = status.collect(args.workdir, time.time())
  print(views.in_text(report))
  if args.json:
    storage.atomic_write_json(args.json, report)
  if args.html:
    storage.atomic_write_text(args.html, views.in_html(report))


if __name__ == '__main__':
  cli.run(main)
