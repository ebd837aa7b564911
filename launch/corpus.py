"""Makes the data sets that training starts from.

  python -m launch.corpus --data out/demo/data                       the demo's questions and answers, spoken by packaged voices
  python -m launch.corpus --data out/mine/data --manifest mine.jsonl your own recordings; see data_pipeline/manifest.py
"""

import argparse
import json
from pathlib import Path

from echox_jax import errors


def main() -> None:
  parser = argparse.ArgumentParser(prog='python -m launch.corpus', description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data', required=True, type=Path, help='folder to write the data sets to')
  parser.add_argument('--manifest', type=Path, help='JSON-lines manifest of your own recordings')
  parser.add_argument('--seed', type=int, default=0, help='picks phrasings, speeds and the held-out answers of the demo')
  parser.add_argument('--workers', type=int, default=2, help='voices that speak at the same time')
  args = parser.parse_args()
  if args.manifest:
    from data_pipeline import manifest
    summary = manifest.build_from_manifest(args.manifest, args.data)
  else:
    from data_pipeline.corpus import build
    summary = build.build_corpus(args.data, seed=args.seed, workers=args.workers)
  print(json.dumps(summary, indent=2))


if __name__ == '__main__':
  errors.run_cli(main)
