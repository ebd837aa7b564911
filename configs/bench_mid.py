"""The mid-size benchmark of answering: random weights, and work that does not depend on them.

  python -m launch.bench respond --config=configs/bench_mid.py --json FILE

Sizes: Whisper base as encoder, a Llama of 8 layers and width 512, the released `small` unit
decoder, the public unit vocoder. The budgets and the rule fix what is done: a question of 10 s
takes 150 positions, an answer has 64 tokens in slices of 26, 26 and 12, five unit words a token.
"""

import dataclasses

from ml_collections import ConfigDict

from echox_jax.prompts import SpecialIds
from echox_jax.training.experiment import ExperimentConfig

IDS = SpecialIds(
  bos=31990,
  start_header=31991,
  end_header=31992,
  eot=31993,
  pad=31993,
  speaker=31994,
  nl=31995,
  system=31996,
  user=31997,
  assistant=31998,
  audio=31999,
  period=13,
  typo_bos=31990,
)
TRUNK = dict(
  hidden_size=512,
  intermediate_size=2048,
  num_heads=8,
  num_kv_heads=8,
  head_dim=64,
  attention='auto',
)
SPEECH = 150  # positions of a question of 10 s
ANSWER, SLICE, WORDS = 64, 26, 5  # tokens; tokens of a slice; unit words of a token


def get_config(stage: str = 's2t') -> ConfigDict:
  """Returns the job."""
  config = ConfigDict(dataclasses.asdict(ExperimentConfig()))
  config.stage = stage
  config.model.update(
    dict(
      profile='released',
      special_ids=dataclasses.asdict(IDS),
      pad_audio_to_30_s=True,
      whisper=dict(
        hidden_size=512, intermediate_size=2048, num_layers=6, num_heads=8, attention='auto'
      ),
      adapter=dict(
        variant='released', num_heads=8, intermediate_size=1024, shrink_budget=SPEECH, ctc_chunk=250
      ),
      llm=dict(TRUNK, num_layers=8, vocab_size=32000),
      unit_decoder=dict(
        unit_vocab_size=8000, trunk=dict(TRUNK, num_layers=4), denoising_intermediate_size=2048
      ),
      units=dict(encoder='hubert', layer=11, num_units=1000, vocab_size=8000),
      # No score is above the threshold: a slice ends when it is long enough.
      streaming=dict(
        threshold=2.0,
        look_ahead=0,
        peak_window=0,
        min_tokens=SLICE - 1,
        min_tokens_above_threshold=SLICE - 1,
        max_slice_tokens=SLICE,
      ),
    )
  )
  config.data.update(dict(max_tokens=128, cached_states=False, max_states=1500))
  config.train.update(dict(batch_size=4))
  config.engine.update(
    dict(
      max_prompt_tokens=64,
      max_new_tokens=ANSWER,
      max_unit_words=SLICE * WORDS,
      max_frames=2 * 2 * SLICE * WORDS,
      words_per_token=WORDS,
      loop_times=0,  # nothing is tried again, though a random decoder goes round in loops
      retry_temperature=0.0,
      max_context=64 + SPEECH + ANSWER,
    )
  )
  return config
