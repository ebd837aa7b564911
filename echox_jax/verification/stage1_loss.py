"""Speech-to-text training with one clip per row (`single`) and several (`multi`): rows, losses and
gradients.

Gradients are compared in two steps, because torch rounds the CTC part of the golden ones (see
ctc_reference). First, ours must equal the exact gradient, computed with a CTC gradient in float64
(row `exact_gradient`: each tensor's largest difference over its largest value). Second, the exact
gradient with its CTC part rounded as in torch must have the golden norms (rows `gradnorm/...`,
`grad/...`).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from echox_jax.config import EchoXConfig
from echox_jax.conversion import released
from echox_jax.models import echox
from echox_jax.prompts import IGNORE
from echox_jax.training import losses, s2t_step
from echox_jax.training.experiment import ExperimentConfig
from echox_jax.verification.ctc_reference import ctc_gradient
from echox_jax.verification.golden import Golden, in_bfloat16
from echox_jax.verification.gradients import by_tensor, gradient_rows
from echox_jax.verification.rows import BFLOAT16_LOSS, GRADIENT, Row, close, identical, relative
from echox_jax.verification.stage1 import smallest_margin

FILES = ('weights', 'stage1_loss')
_ROUNDED = 'CTC part rounded as torch does'


def rows(golden: Golden) -> list[Row]:
  """The rows of every batch of the file."""
  kinds = [name.removesuffix('/loss') for name in golden['stage1_loss'] if name.endswith('/loss')]
  return [row for kind in kinds for row in _batch_rows(golden, kind)]


def _batch_rows(golden: Golden, kind: str) -> list[Row]:
  arrays = golden['stage1_loss'].under(f'{kind}/')
  name = f'stage1_loss/{kind}'
  speech = golden.speech(arrays['mel_index'])
  cfg, params = golden.fitted(speech), {group: golden.params[group] for group in ('llm', 'adapter')}
  batch = {
    'input_ids': arrays['input_ids'],
    'labels': arrays['labels'],
    'ctc_labels': arrays['asr_targets'],
    **speech,
  }
  targets = arrays['asr_targets'].reshape(-1, arrays['asr_targets'].shape[-1])

  def forward(params):
    loss, ce, output, ctc_logits = _forward(params, cfg, batch)
    return (loss, ce, ctc_logits), output

  @jax.jit
  def run(params, by_loss, by_ce, by_logits):
    made, pull, output = jax.vjp(forward, params, has_aux=True)
    each = losses.ctc_loss(
      made[2], output.speech.frame_lengths.reshape(-1), targets, cfg.special_ids.audio
    )
    rows, at = arrays['logit_rows'].T
    logits = echox.lm_logits(params, cfg, output.hidden[rows, at])
    return (*made, *each, logits, output), pull((by_loss, by_ce, by_logits))[0]

  one, nothing = np.float32(1), np.float32(0)
  no_logits = np.zeros(
    (len(targets), speech['states'].shape[-2] // 2, cfg.llm.vocab_size), np.float32
  )
  (loss, ce, ctc_logits, ctc, ctc_each, logits, output), gradients = run(
    params, one, nothing, no_logits
  )

  length = arrays['expanded_labels'].shape[1]
  valid = np.asarray(output.valid)[:, :length]
  inputs = arrays['llm_inputs_embeds'][:, : valid.shape[1]]
  labels = np.asarray(output.labels)
  found = {
    'kept': output.speech.kept.reshape(-1),
    'ctc_argmax': jnp.argmax(ctc_logits, axis=-1),
    'expanded_labels': labels[:, :length],
    'logit_rows': np.argwhere(labels[:, 1:] != IGNORE),
  }
  result = [identical(f'{name}/{key}', ours, arrays[key]) for key, ours in found.items()]
  result += [
    close(
      f'{name}/ctc_top2_margin_min', smallest_margin(ctc_logits), arrays['ctc_top2_margin_min']
    ),
    close(f'{name}/llm_inputs_embeds', output.inputs[:, :length][valid], inputs[valid]),
    close(f'{name}/logits_at_rows', logits, arrays['logits_at_rows']),
  ]
  found = {
    'lm_ce': ce,
    'lm_ce_rederived': ce,
    'ctc_loss': ctc,
    'ctc_each_unnormalised': ctc_each,
    'loss': loss,
  }
  result += [relative(f'{name}/{key}', ours, arrays[key]) for key, ours in found.items()]

  tensors = released.s2t_rules(cfg)
  weight = ExperimentConfig().train.loss.ctc_weight

  def with_ctc_gradient(dtype: type) -> dict[str, np.ndarray]:
    by_logits = weight * _mean_ctc_gradient(ctc_logits, targets, cfg.special_ids.audio, dtype)
    return by_tensor(run(params, nothing, one, by_logits.astype(np.float32))[1], tensors)

  exact = with_ctc_gradient(np.float64)
  errors = [
    np.abs(ours - exact[key]).max() / max(np.abs(exact[key]).max(), 1e-3)
    for key, ours in by_tensor(gradients, tensors).items()
  ]
  result.append(close(f'{name}/exact_gradient', np.array(errors), np.zeros(len(errors)), GRADIENT))
  result += gradient_rows(name, with_ctc_gradient(np.float32), arrays, _ROUNDED)
  lower = jax.jit(lambda params: _forward(params, in_bfloat16(cfg), batch)[0])(params)
  return [*result, relative(f'{name}/bf16_loss', lower, arrays['loss'], BFLOAT16_LOSS)]


def _forward(
  params: Mapping, cfg: EchoXConfig, batch: Mapping
) -> tuple[jax.Array, jax.Array, echox.S2TOutput, jax.Array]:
  """(loss, cross-entropy, the forward pass, CTC logits float32[clips,F,V])."""
  output = echox.s2t_forward(params, cfg, batch)
  loss, metrics = s2t_step.loss_of_output(params, batch, output, ExperimentConfig(model=cfg))
  frames = output.speech.frames.reshape(-1, *output.speech.frames.shape[-2:])
  return loss, metrics['text_ce'], output, echox.ctc_logits(params, cfg, frames)


def _mean_ctc_gradient(
  logits: jax.Array, targets: np.ndarray, blank: int, dtype: type
) -> np.ndarray:
  """Gradient of the mean of every clip's CTC loss over its labels: float[N,F,V], int[N,C] ->
  dtype[N,F,V].
  """
  labels = [row[row != IGNORE] for row in targets]
  counts = np.array([max(1, len(row)) for row in labels], dtype)
  return ctc_gradient(logits, labels, blank, dtype) / (counts * len(labels))[:, None, None]
