"""Speech to text at inference: from log-mel to logits and one cached step, through all parts
between.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from echox_jax.decoding import generate
from echox_jax.models import adapter, echox
from echox_jax.models.attention import Mask
from echox_jax.models.llama import Llama
from echox_jax.verification.golden import Golden
from echox_jax.verification.rows import Row, close, identical

FILES = ('weights', 'stage1')
Array = jax.Array


def rows(golden: Golden) -> list[Row]:
  """A row for each array of the file; each part gets the output of our part before it."""
  arrays = golden['stage1']
  speech = golden.speech(np.zeros(1, int))
  cfg, params = golden.fitted(speech), golden.params
  found = {'whisper_last_hidden': speech['states']}

  @jax.jit
  def hear(params, states, lengths):
    module = adapter.SoundwaveAdapter(cfg)
    made, taps = module.apply(
      {'params': params['adapter']}, states, lengths, capture_intermediates=True
    )
    taps = {
      name: tap['__call__'][0] for name, tap in taps['intermediates'].items() if name != '__call__'
    }
    logits = echox.ctc_logits(params, cfg, made.frames)
    keep = adapter.kept_frames(jnp.argmax(logits, axis=-1), jnp.ones(logits.shape[:2], bool))
    return made, taps, logits, keep

  made, taps, logits, keep = hear(params, speech['states'], speech['state_lengths'])
  kept = int(made.kept[0])
  shape = made.frames.shape
  found |= {
    'proj': taps['projection'].reshape(shape),
    'asr': taps['alignment'].reshape(shape),
    'out_norm': taps['out_norm'].reshape(shape),
    'ctc_logits_first64': logits[:, : arrays['ctc_logits_first64'].shape[1]],
    'ctc_logsumexp': jax.nn.logsumexp(logits, axis=-1),
    'ctc_argmax': jnp.argmax(logits, axis=-1),
    'ctc_top2_margin_min': smallest_margin(logits),
    'keep_mask': keep[0],
    'shrink': made.frames[0][np.flatnonzero(keep[0])],
    'lookback': made.embeddings[0, :kept],
  }

  @jax.jit
  def read(params, ids, made):
    llm = functools.partial(Llama(cfg.llm).apply, {'params': params['llm']})
    row = echox.splice(cfg, ids, llm(ids, method='embed'), made)
    # Every position attends to the prompt keys before it; a position that is masked for others is
    # masked for itself.
    mask = Mask(allowed=row.prompt_keys[:, None, None], causal=True)
    hidden, _ = llm(row.inputs, row.positions, mask, method='hidden')
    state = generate.decode_step(
      params, cfg, generate.prefill(params, cfg, row, 1), arrays['step2_input_id'][:, 0]
    )
    return row, hidden, echox.lm_logits(params, cfg, hidden), state

  row, hidden, logits, state = read(params, arrays['input_ids'], made)
  length = int(row.valid.sum())
  found |= {
    'llm_inputs_embeds': row.inputs[:, :length],
    'llm_key_mask': row.prompt_keys[:, :length],
    'llm_last_hidden': hidden[:, :length],
    'logits': logits[:, :length],
    'step2_hidden': state.hidden[:, None],
    'step2_logits': state.logits[:, None],
  }

  def judge(name):
    return identical if name in ('ctc_argmax', 'keep_mask', 'llm_key_mask') else close

  return [judge(name)(f'stage1/{name}', ours, arrays[name]) for name, ours in found.items()]


def smallest_margin(logits: Array) -> Array:
  """The smallest gap between the two best logits of a frame in float[B,T,V]; smaller errors than
  half of it cannot change the argmax.
  """
  best = jax.lax.top_k(logits, 2)[0]
  return jnp.min(best[..., 0] - best[..., 1])
