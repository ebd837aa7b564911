"""EchoX-8B: Llama-3.1-8B, Whisper large-v3, the released `medium` unit decoder, the public unit
vocoder.

  python -m launch.train --config=configs/echox_8b.py:STAGE --workdir=DIR

STAGE is s2t, t2c, echo or vocoder.

Meant for: v5e:4x4 (16 chips of 16 GiB), 8 rows of 1,024 LLM positions per chip; t2c needs v5e:2x2,
64 rows per chip. For each further chip add 8 rows to `train.batch_size`, and set `mesh.dcn_data` to
the number of slices. Expected memory per chip with the longest batches (compiled, not run): s2t
7.9 GiB, echo 6.9 GiB, t2c on four chips 4.7 GiB.
"""

from ml_collections import ConfigDict

from configs import full_size

LLM = dict(
  full_size.LLAMA_3,
  hidden_size=4096,
  intermediate_size=14336,
  num_layers=32,
  num_heads=32,
  num_kv_heads=8,
  head_dim=128,
  rope_scaling=dict(factor=8.0),
)
UNIT_TRUNK = dict(
  hidden_size=768, intermediate_size=2048, num_layers=8, num_heads=12, num_kv_heads=12, head_dim=64
)
ROWS = dict(s2t=128, t2c=256, echo=128, vocoder=64)


def get_config(stage: str = 's2t') -> ConfigDict:
  """The job of one stage: s2t, t2c, echo or vocoder."""
  parts, folder = full_size.model(LLM, UNIT_TRUNK), full_size.in_models('llama-3.1-8b')
  return full_size.job(stage, parts, ROWS, folder, mix=full_size.PAPER)
