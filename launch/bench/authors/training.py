"""Stage I by the released code: loss and gradients of the parameters that our stage `s2t` trains,
LoRA (by peft) and the whole adapter. The encoder is frozen.
"""

from collections.abc import Callable
import time
from types import ModuleType
from typing import Any

import peft
import torch

from launch.bench.authors import model as model_lib

_ADAPTER = ('mm_projector1', 'asr_transformer_encoder', 'out_norm', 'lbm', 'audio_feature_head')


def step(code: ModuleType, job: Any) -> Callable[[], dict[str, float]]:
  """Makes the row; the ids of `job.batch` are those of our row."""
  lora = job.lora
  model = peft.get_peft_model(
    model_lib.hears(code.EchoXForCausalLM(model_lib.config(code, job)), job),
    peft.LoraConfig(
      r=lora.rank,
      lora_alpha=lora.alpha,
      lora_dropout=lora.dropout,
      target_modules=list(lora.targets),
    ),
  ).train()
  inner = model.get_base_model().model
  for name in _ADAPTER:
    getattr(inner, name).requires_grad_(True)
  ids, labels, spoken = (
    torch.tensor(getattr(job.batch, name)) for name in ('input_ids', 'labels', 'ctc_labels')
  )
  sizes = job.model.whisper
  mel = torch.randn(len(ids), 1, sizes.num_mel_bins, 2 * sizes.max_positions)
  positions = ids.shape[1] - 1 + job.kept

  def run() -> dict[str, float]:
    model.zero_grad(set_to_none=True)
    # The released model counts positions on from call to call, for decoding; a step starts anew.
    inner.mask_tensor, inner.length = torch.ones(1, positions, dtype=torch.bool), positions
    start = time.perf_counter()
    found = model(
      input_ids=ids,
      attention_mask=torch.ones_like(ids),
      labels=labels,
      asr_targets=spoken[:, None],
      audios=mel,
    )
    found.loss.backward()
    return {'train_step_s': time.perf_counter() - start}

  return run
