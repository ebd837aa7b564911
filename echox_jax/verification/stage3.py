"""Echo training as released: `finetune_kd` with the cosine term (`kd_train`) and without
(`kd_eval_like`), and `finetune`.

Losses and gradients are those of the whole chain, from the log-mels on. The inputs and outputs of
the unit decoder are compared given the golden LLM states (`aligner_in`), so these rows test only
the unit decoder.
"""

from typing import Any

import jax
import numpy as np

from echox_jax.config import EchoXConfig
from echox_jax.conversion import released, released_units
from echox_jax.models import echox
from echox_jax.models.unit_decoder import DenoisingAdapter
from echox_jax.prompts import IGNORE
from echox_jax.training import s2t_step
from echox_jax.training.experiment import ExperimentConfig
from echox_jax.verification import released_loss
from echox_jax.verification.golden import Arrays, Golden, in_bfloat16
from echox_jax.verification.gradients import by_tensor, gradient_rows
from echox_jax.verification.rows import BFLOAT16_LOSS, Row, close, identical, relative

FILES = ('weights', 'stage1', 'stage1_loss', 'stage3')  # the clips are those of stage 1
_TEXT_TABLE = f'{released.UNIT_PREFIX}model.embed_tokens.weight'
# in evaluation the cross-entropy is the whole loss
_KD = {'kd_train': 'loss', 'kd_eval_like': 'unit_ce'}


def rows(golden: Golden) -> list[Row]:
  """Rows of both forms of `finetune_kd` and of `finetune`."""
  arrays = golden['stage3']
  speech = golden.speech(arrays['mel_index'])
  cfg = golden.fitted(speech)
  kinds = [kind for kind in _KD if f'{kind}/loss' in arrays]
  found = _kd_rows(golden, cfg, speech, kinds) if kinds else []
  return found + (_finetune_rows(golden, cfg, speech) if 'finetune/loss' in arrays else [])


def _kd_rows(
  golden: Golden, cfg: EchoXConfig, speech: dict[str, np.ndarray], kinds: list[str]
) -> list[Row]:
  arrays, params = golden['stage3'], golden.trained()

  def forward(
    params: dict[str, Any], cfg: EchoXConfig
  ) -> tuple[echox.S2TOutput, released_loss.ReleasedLoss]:
    output = echox.s2t_forward(
      params, cfg, {'input_ids': arrays['input_ids'], 'labels': arrays['labels'], **speech}
    )
    return output, _finetune_kd(params, cfg, arrays, output.hidden, output.speech.kept)

  @jax.jit
  def run(params):
    def losses(params):
      output, found = forward(params, cfg)
      return {'loss': found.loss, 'unit_ce': found.unit_ce}, (output, found)

    _, pull, (output, found) = jax.vjp(losses, params, has_aux=True)
    parts = {}
    for kind in kinds:
      states = arrays[f'{kind}/aligner_in']
      adapted = DenoisingAdapter(cfg).apply({'params': params['denoising_adapter']}, states)
      given = _finetune_kd(params, cfg, arrays, states, output.speech.kept)
      parts[kind] = (
        pull({name: np.float32(name == _KD[kind]) for name in ('loss', 'unit_ce')})[0],
        adapted,
        given,
      )
    return output, found, parts

  output, found, parts = run(params)
  tensors = [*released.s2t_rules(cfg), *released_units.unit_rules(cfg)]
  spoken = arrays['sub_lengths'].reshape(-1) >= 0  # absent slices do not count
  result = []
  for kind, (gradient, adapted, given) in parts.items():
    golden_of, name = arrays.under(f'{kind}/'), f'stage3/{kind}'
    length = golden_of['aligner_in'].shape[1]
    valid = np.asarray(output.valid)[:, :length]
    states = golden_of['aligner_in'][:, : valid.shape[1]]
    result += [
      identical(f'{name}/flat_targets', found.labels, golden_of['flat_targets']),
      identical(f'{name}/t2u_mask', found.valid, golden_of['t2u_mask']),
      close(f'{name}/aligner_in', output.hidden[:, :length][valid], states[valid]),
      close(f'{name}/aligner_out', adapted, golden_of['aligner_out']),
      close(f'{name}/t2u_inputs_embeds', given.inputs, golden_of['t2u_inputs_embeds']),
      close(f'{name}/t2u_logits', given.logits[spoken], golden_of['t2u_logits'][spoken]),
    ]
    ours = {
      'loss': getattr(found, _KD[kind]),
      'unit_ce': found.unit_ce,
      'cosine_loss': found.cosine,
      'cosine_weight': found.cosine_weight,
    }
    result += [
      relative(f'{name}/{key}', value, golden_of[key])
      for key, value in ours.items()
      if not np.isnan(golden_of[key])
    ]
    by_name = by_tensor(gradient, tensors)
    # torch gives no gradient to the row of the padding id; the whole table is frozen in training
    # anyway.
    by_name[_TEXT_TABLE] = np.where(
      np.arange(cfg.llm.vocab_size)[:, None] == cfg.special_ids.pad, 0, by_name[_TEXT_TABLE]
    )
    result += gradient_rows(name, by_name, golden_of)
  if 'kd_train' in kinds:
    lower = jax.jit(lambda params: forward(params, in_bfloat16(cfg, adapter=False))[1].loss)(params)
    result.append(
      relative(
        'stage3/kd_train/bf16_loss',
        lower,
        arrays['kd_train/loss'],
        BFLOAT16_LOSS,
        'adapter in float32',
      )
    )
  return result


def _finetune_kd(
  params: dict[str, Any], cfg: EchoXConfig, arrays: Arrays, hidden: jax.Array, kept: jax.Array
) -> released_loss.ReleasedLoss:
  """The loss, given LLM states float[B,T,D] and the number of positions of the clips int[B]."""
  ids, labels = arrays['input_ids'], arrays['labels']
  counts = (labels != IGNORE).sum(axis=1)
  words = np.stack(
    [np.pad(row[row != IGNORE], (0, counts.max() - n)) for row, n in zip(labels, counts)]
  )
  starts = (
    np.argmax(ids == cfg.special_ids.audio, axis=1)
    + kept
    - 1
    + arrays['assistant_after_audio_shifts']
  )
  return released_loss.finetune_kd(
    params,
    cfg,
    hidden,
    words,
    starts,
    arrays['sub_lengths'],
    arrays['unit_targets'],
    int(arrays['sub_lengths'].max()),
  )


def _finetune_rows(golden: Golden, cfg: EchoXConfig, speech: dict[str, np.ndarray]) -> list[Row]:
  arrays = golden['stage3'].under('finetune/')
  batch = {
    'input_ids': arrays['input_ids'],
    'labels': arrays['labels'],
    'ctc_labels': arrays['asr_targets'],
    **speech,
  }

  @jax.jit
  def run(params):
    output = echox.s2t_forward(params, cfg, batch)
    s2t, _ = s2t_step.loss_of_output(params, batch, output, ExperimentConfig(model=cfg))
    return released_loss.finetune(
      params,
      cfg,
      output.hidden,
      output.labels,
      arrays['labels'],
      arrays['t2u_input_ids'],
      arrays['t2u_labels'],
      s2t,
    )

  found = run(golden.trained())
  return [
    close('stage3/finetune/t2u_inputs_embeds', found.inputs, arrays['t2u_inputs_embeds']),
    relative('stage3/finetune/t2u_ce', found.unit_ce, arrays['t2u_ce']),
    relative('stage3/finetune/cosine_loss', found.cosine, arrays['cosine_loss']),
    relative('stage3/finetune/loss', found.loss, arrays['loss']),
  ]
