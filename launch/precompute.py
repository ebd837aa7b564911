"""Computes once the inputs of the training stages: tokenizer, units, unit words, encoder states.

  python -m launch.precompute --config=configs/echox_nano.py:STAGE --workdir=DIR
                              [--config.precompute.batch_seconds=60 ...]

Any stage of a config works: all stages share the results. Reads the data sets under DIR/data (made
by `python -m launch.corpus`) and writes DIR/precomputed. Finished work is skipped; a run that was
stopped continues where it was.

On several hosts, run the same command on each host, with DIR on shared storage. The number of hosts
may change when a run continues.

--distributed, --coordinator, --num_processes, --process_id: how the hosts find one another, as in
launch.train
"""

import sys

from data_pipeline import precompute
from echox_jax import storage
from echox_jax.parallel import distributed
from launch import cli, train


def main() -> None:
  if any(argument in ('-h', '--help') for argument in sys.argv[1:]):
    print(__doc__)
    return
  experiment, values = train.parse(sys.argv, 'launch.precompute')
  workdir = storage.check_writable(values.workdir)
  distributed.initialise(
    values.distributed, values.coordinator, values.num_processes, values.process_id
  )
  report = precompute.run(experiment, workdir)
  if distributed.is_first():
    print(precompute.summary(report))


if __name__ == '__main__':
  cli.run(main, distributed.leave)
