"""EchoX-3B: Llama-3.2-3B, Whisper large-v3, the released unit decoder with six layers, the public
unit vocoder.

  python -m launch.train --config=configs/echox_3b.py:STAGE --workdir=DIR

STAGE is s2t, t2c, echo or vocoder.

Meant for: v5e:2x4 (8 chips of 16 GiB), 8 rows of 1,024 LLM positions per chip; `t2c` and `vocoder`
need v5e:2x2. Expected memory per chip with the longest batches (compiled, not run): s2t 6.6 GiB,
echo 5.6 GiB, t2c on four chips 2.0 GiB.
"""

from ml_collections import ConfigDict

from configs import full_size

LLM = dict(
  full_size.LLAMA_3,
  hidden_size=3072,
  intermediate_size=8192,
  num_layers=28,
  num_heads=24,
  num_kv_heads=8,
  head_dim=128,
  rope_scaling=dict(factor=32.0),
  tie_embeddings=True,
)
UNIT_TRUNK = dict(
  hidden_size=512, intermediate_size=2048, num_layers=6, num_heads=8, num_kv_heads=8, head_dim=64
)
ROWS = dict(s2t=64, t2c=64, echo=64, vocoder=64)


def get_config(stage: str = 's2t') -> ConfigDict:
  """The job of one stage: s2t, t2c, echo or vocoder."""
  parts, folder = full_size.model(LLM, UNIT_TRUNK), full_size.in_models('llama-3.2-3b')
  return full_size.job(stage, parts, ROWS, folder, mix=full_size.PAPER)
