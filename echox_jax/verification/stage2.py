"""The text-to-codec stage: the unit decoder on whole rows, its loss and its gradients."""

import functools

import jax
import numpy as np

from echox_jax.conversion import released_units
from echox_jax.models.unit_decoder import UnitDecoder
from echox_jax.prompts import IGNORE
from echox_jax.training import echo_step
from echox_jax.training.experiment import DataConfig, ExperimentConfig
from echox_jax.verification.golden import Golden, in_bfloat16
from echox_jax.verification.gradients import by_tensor, gradient_rows
from echox_jax.verification.rows import BFLOAT16_LOSS, Row, close, identical, relative

FILES = ('weights', 'stage2')


def rows(golden: Golden) -> list[Row]:
  """Rows of the forward pass (without padding positions), the loss, the gradients, and the bfloat16
  loss.
  """
  arrays, cfg = golden['stage2'], golden.cfg
  ids, labels = arrays['t2u_input_ids'], arrays['t2u_labels']
  real = arrays['t2u_attention_mask']
  table = golden.params['unit_text_embedding']['embedding']

  @jax.jit
  def forward(held):
    model = functools.partial(UnitDecoder(cfg).apply, {'params': held})
    hidden = model(table, ids, ids != cfg.special_ids.eot)
    return (
      model(model(table, ids, method='embed'), method='project'),
      hidden,
      model(hidden, method='logits'),
    )

  projected, hidden, logits = forward(golden.params['echo'])
  found = [
    identical('stage2/t2u_attention_mask', ids != cfg.special_ids.eot, real),
    close('stage2/adapter_out', projected, arrays['adapter_out']),
    close('stage2/t2u_hidden', hidden[real], arrays['t2u_hidden'][real]),
    close('stage2/t2u_logits', logits[real], arrays['t2u_logits'][real]),
  ]

  held = {'t2c': golden.params['echo'], 'unit_text_embedding': golden.params['unit_text_embedding']}
  data = DataConfig(max_unit_words=int((labels != IGNORE).sum(axis=1).max()))

  def loss_of(model):
    return lambda held, batch: echo_step.t2c_loss(
      held, batch, jax.random.key(0), ExperimentConfig(model=model, data=data)
    )

  batch = {'input_ids': ids, 'labels': labels}
  (loss, _), gradients = jax.jit(jax.value_and_grad(loss_of(cfg), has_aux=True))(held, batch)
  found.append(relative('stage2/loss', loss, arrays['loss']))
  tensors = released_units.unit_rules(cfg, 't2c', adapted=False)
  found += gradient_rows('stage2', by_tensor(gradients, tensors), arrays)
  loss, _ = jax.jit(loss_of(in_bfloat16(cfg)))(held, batch)
  return [*found, relative('stage2/bf16_loss', np.float32(loss), arrays['loss'], BFLOAT16_LOSS)]
