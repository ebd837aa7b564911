"""Does the work of rows on request: `python -m launch.bench.authors`, started by
`launch.bench released`.

One JSON object a line. The first one that comes in is the job (`launch.bench.released.job`); the
first that goes out is `{"ready": versions}`, or `{"lacks": package}`. Then `{"row": name}` is
answered by `{"figures": seconds by name}`, or `{"failed": what happened}`.
"""

import json
import logging
import os
from pathlib import Path
import sys
from types import SimpleNamespace
from typing import Any, TextIO


def main() -> None:
  out = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # what the released code prints must not come between
  job = json.loads(sys.stdin.readline(), object_hook=lambda fields: SimpleNamespace(**fields))
  job.vocoder = vars(job.vocoder) | {'dur_predictor_params': vars(job.vocoder.dur_predictor_params)}
  logging.disable(logging.INFO)  # fairseq makes every package tell how it goes
  try:
    import torch
    import transformers

    from launch.bench.authors import rows as rows_lib

    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    rows = rows_lib.make(Path(job.source), job)
  except ImportError as error:
    _say(out, {'lacks': error.name or str(error)})
    return
  _say(out, {'ready': {'torch': torch.__version__, 'transformers': transformers.__version__}})
  for line in sys.stdin:
    _say(out, _figures(rows[json.loads(line)['row']]))


def _figures(row: Any) -> dict[str, Any]:
  try:
    return {'figures': row()}
  except RuntimeError as error:
    return {'failed': str(error)}


def _say(out: TextIO, what: dict[str, Any]) -> None:
  print(json.dumps(what), file=out, flush=True)


if __name__ == '__main__':
  main()
