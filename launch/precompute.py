"""Computes once what the training stages read: tokenizer, units, unit language, unit words, speech-encoder states.

  python -m launch.precompute --config=configs/echox_nano.py:STAGE --workdir=DIR [--config.precompute.batch_size=16 ...]

Any stage of a config will do: they share what is computed. Reads the data sets under DIR/data (`python -m launch.corpus` makes
them) and writes DIR/precomputed. Finished steps are skipped; a run that was stopped goes on where it was.
"""

import sys

from data_pipeline import precompute
from echox_jax import errors
from launch import train


def main() -> None:
  if any(argument in ('-h', '--help') for argument in sys.argv[1:]):
    print(__doc__)
    return
  experiment, values = train.parse(sys.argv, 'launch.precompute')
  report = precompute.run(experiment, values.workdir)
  print(precompute.summary(report))


if __name__ == '__main__':
  errors.run_cli(main)
