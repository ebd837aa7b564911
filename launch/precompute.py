"""Computes once what the training stages read: tokenizer, units, unit words, encoder states.

  python -m launch.precompute --config=configs/echox_nano.py:STAGE --workdir=DIR
                              [--config.precompute.batch_seconds=60 ...]

Any stage of a config will do: they share what is computed. Reads the data sets under DIR/data
(`python -m launch.corpus` makes them) and writes DIR/precomputed. What is finished is skipped; a
run that was stopped goes on where it was.

On several hosts the same command runs on each, with DIR on storage that all of them share; they
need not be as many when a run goes on.

--distributed, --coordinator, --num_processes, --process_id: how they find one another, as for
launch.train
"""

import sys

from data_pipeline import precompute
from echox_jax.parallel import distributed
from launch import cli, train


def main() -> None:
  if any(argument in ('-h', '--help') for argument in sys.argv[1:]):
    print(__doc__)
    return
  experiment, values = train.parse(sys.argv, 'launch.precompute')
  distributed.initialise(
    values.distributed, values.coordinator, values.num_processes, values.process_id
  )
  report = precompute.run(experiment, values.workdir)
  if distributed.is_first():
    print(precompute.summary(report))


if __name__ == '__main__':
  cli.run(main, distributed.leave)
