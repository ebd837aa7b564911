"""Losses of the stages `t2c` (text to unit words) and `echo` (LLM states to the unit words of their
own text).

Echo training (paper, stage 3): the S2T model's answer states H go through the denoising adapter
into the echo decoder. The *frozen* T2C decodes pseudo-labels Y' from H's text X' inside the step.

  L = CE(echo decoder on BOS Y' EOT, given adapter(H))
      + lambda * mean_i (1 - cos(adapter(H_i), Emb(X'_i))) + w * L_s2t

The paper sums the cosine term over tokens. Here it is the mean, so that lambda does not depend on
batch or length.

With `echo_targets` = `recorded`, Y' are the unit words of the answer's recording instead: the
conventional way, to compare with.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from echox_jax import errors, prompts
from echox_jax.config import EchoXConfig, StreamingConfig
from echox_jax.decoding import generate, trigger
from echox_jax.models import chunked_head, echox, unit_decoder
from echox_jax.models.attention import Mask
from echox_jax.models.llama import FIRST_HEAD, head_embedding
from echox_jax.models.unit_decoder import UnitDecoder
from echox_jax.parallel import sharding
from echox_jax.prompts import IGNORE
from echox_jax.training import chunked_losses, guided, losses, s2t_step
from echox_jax.training.experiment import ExperimentConfig, LossConfig

Array = jax.Array
Metrics = dict[str, Array]
ECHO_TEXTS = ('gold', 'argmax', 'generate')
ECHO_TARGETS = ('decoded', 'recorded')


class Answers(NamedTuple):
  """The spoken part of each answer, right-padded: states float[B,A,D] that predict ids int[B,A];
  lengths int[B].
  """

  states: Array
  ids: Array
  lengths: Array


class SliceBatch(NamedTuple):
  """The slices of a batch, one per row. Each row group of the mesh has M / groups rows, with empty
  rows at the end.

  Attributes:
    states: float[M,N,D].
    ids: int[M,N], the tokens that the states predict.
    lengths: int[M], 0 = no slice.
    number: int[M], index of the slice by batch row and order in it; the same on every mesh.
    overflow_slices: int32, slices over a row's `max_slices` or a row group's share of M.
    overflow_slice_tokens: int32, slices longer than `max_slice_tokens`, left out.
  """

  states: Array
  ids: Array
  lengths: Array
  number: Array
  overflow_slices: Array
  overflow_slice_tokens: Array


class _Places(NamedTuple):
  """Positions of the slices of some rows: row int[m], columns int[m,N]; the other fields are as in
  `SliceBatch`, with counts int[1].
  """

  row: Array
  columns: Array
  lengths: Array
  number: Array
  overflow_slices: Array
  overflow_slice_tokens: Array


def t2c_loss(
  params: dict, batch: dict, rng: Array | None, experiment: ExperimentConfig
) -> tuple[Array, Metrics]:
  """Computes the cross-entropy of unit words given their text (paper, stage 2).

  Args:
    params: groups `unit_text_embedding` and `t2c`.
    batch: `input_ids`, `labels` int[B,T], with contiguous labels in each row; or packed rows, with
      `segments` int[B,T].
    rng: dropout key; None = deterministic.
    experiment: its `train.loss` has the options; its `data.max_unit_words` (+ BOS and EOT) limits
      the labels of an unpacked row, so logits are computed only for them.

  Returns:
    (loss, metrics `unit_ce`, `tokens`, `overflow_unit_words`; with `guide_weight` also `astray`).
  """
  cfg, choices, ids = experiment.model, experiment.train.loss, batch['input_ids']
  hides_eot = prompts.get_profile(cfg.profile).mask_unit_eot
  valid = ids != cfg.special_ids.eot if hides_eot else None
  segments, guides = batch.get('segments'), choices.guide_weight > 0
  hidden = UnitDecoder(cfg).apply(
    {'params': params['t2c']},
    params['unit_text_embedding']['embedding'],
    ids,
    valid,
    segments,
    mutable=[FIRST_HEAD] if guides else False,
    **s2t_step.dropout(rng),
  )
  hidden, heads = hidden if guides else (hidden, None)
  room = (
    ids.shape[1] - 1
    if 'segments' in batch
    else min(ids.shape[1] - 1, experiment.data.max_unit_words + 2)
  )
  hidden, labels, missed = _labelled(hidden[:, :-1], batch['labels'][:, 1:], room)
  head, labels = _unit_head(params['t2c'], cfg, labels, choices)
  ce = chunked_losses.cross_entropy(hidden, head, labels, choices.chunk_tokens)
  metrics = {'unit_ce': ce.mean, 'tokens': ce.count, 'overflow_unit_words': missed}
  if not guides:
    return ce.mean, metrics
  astray = guided.astray(cfg, heads[FIRST_HEAD], ids, batch['labels'], segments)
  return ce.mean + choices.guide_weight * astray, metrics | {'astray': astray}


def echo_loss(
  params: dict, batch: dict, rng: Array | None, experiment: ExperimentConfig
) -> tuple[Array, Metrics]:
  """Computes the loss of echo training on one batch.

  Args:
    params: groups `llm`, `adapter`, `unit_text_embedding`, `t2c` (frozen), `echo`,
      `denoising_adapter`, and `whisper` if states are not cached.
    batch: as in `s2t_step.s2t_loss`, one answer per row; with recorded targets also `unit_words`
      int[B,W], -1 = none.
    rng: dropout key; None = deterministic.
    experiment: the job; `train.loss` has the weights, the sources of X' and Y' and the slice
      budgets.

  Returns:
    (loss, metrics of `s2t_loss` and `echo_ce`, `denoising`, `slices`, `unit_words`, `replaced_text`
    (see `spoken_text`), `silent_slices` (nothing decoded),
    `overflow_slices`, `overflow_slice_tokens`, `overflow_unit_words`, and with `generate`
    `overflow_answers`).

  Raises:
    ConfigError: `echo_text` or `echo_targets` is unknown, or they do not go together.
  """
  cfg, choices = experiment.model, experiment.train.loss
  _check_sources(choices)
  s2t_rng, generate_rng, echo_rng = (None,) * 3 if rng is None else jax.random.split(rng, 3)
  batch = s2t_step.with_states(params, batch, rng, experiment)
  output = echox.s2t_forward(params, cfg, batch, **s2t_step.dropout(s2t_rng))
  s2t, metrics = s2t_step.loss_of_output(params, batch, output, experiment)
  if choices.echo_text == 'generate':
    own, metrics['overflow_answers'] = _own_answers(params, cfg, batch, choices.max_new_tokens)
    output = echox.s2t_forward(params, cfg, own, **s2t_step.dropout(generate_rng))
  spoken = answers(cfg, output, batch['input_ids'].shape[1])
  slices = batch_slices(
    params,
    cfg,
    spoken,
    choices.max_slices,
    choices.slices_per_batch // experiment.train.accumulate_steps,
  )
  text, replaced = slices.ids, jnp.int32(0)
  if choices.echo_text == 'argmax':
    likeliest = chunked_head.argmax(
      slices.states, head_embedding(params['llm']), choices.chunk_tokens
    )
    text, replaced = spoken_text(cfg, likeliest, slices)
  if choices.echo_targets == 'recorded':
    words = recorded_words(batch['unit_words'], spoken, slices, choices.max_slices)
  else:
    words = pseudo_labels(params, cfg, text, slices.lengths, experiment.data.max_unit_words)
  ce, denoising = echo_terms(params, cfg, slices, text, words, echo_rng, choices)

  def count(x):
    return jnp.sum(x).astype(jnp.float32)

  real = slices.lengths > 0
  metrics |= {
    'echo_ce': ce.mean,
    'denoising': denoising.mean,
    'slices': count(real),
    'unit_words': count(words.lengths),
    'replaced_text': count(replaced),
    'silent_slices': count(real & (words.lengths == 0)),
    'overflow_slices': count(slices.overflow_slices),
    'overflow_slice_tokens': count(slices.overflow_slice_tokens),
    'overflow_unit_words': count(words.overflow),
  }
  return ce.mean + choices.denoising_weight * denoising.mean + choices.s2t_weight * s2t, metrics


def _check_sources(choices: LossConfig) -> None:
  """Raises ConfigError if the sources of X' and Y' are unknown or do not go together."""
  for field, known in (('echo_text', ECHO_TEXTS), ('echo_targets', ECHO_TARGETS)):
    if getattr(choices, field) not in known:
      raise errors.ConfigError(
        f'train.loss.{field} is {getattr(choices, field)!r}: use one of {", ".join(known)}.'
      )
  if choices.echo_targets == 'recorded' and choices.echo_text == 'generate':
    raise errors.ConfigError(
      "train.loss.echo_targets 'recorded' says the given answer, which echo_text 'generate' "
      "replaces: set echo_text to 'gold' or 'argmax'."
    )


def answers(cfg: EchoXConfig, output: echox.S2TOutput, room: int) -> Answers:
  """Extracts the states that predict spoken tokens from whole rows.

  Args:
    cfg: its profile determines the special ids that are not spoken; all other tokens are.
    output: result of `s2t_forward`, with the labels of one answer per row.
    room: static number of tokens A.
  """
  special = cfg.special_ids
  labels = output.labels[:, 1:]
  spoken = labels != IGNORE
  for token in prompts.unspoken_ids(special, prompts.get_profile(cfg.profile)):
    spoken &= labels != token
  order = jnp.argsort(~spoken, axis=1, stable=True)[:, :room]
  ids = jnp.take_along_axis(jnp.where(spoken, labels, special.pad), order, axis=1)
  states = jnp.take_along_axis(output.hidden, order[..., None], axis=1)
  return Answers(states, ids, jnp.minimum(spoken.sum(axis=1), room).astype(jnp.int32))


def batch_slices(
  params: dict, cfg: EchoXConfig, spoken: Answers, max_slices: int, places: int
) -> SliceBatch:
  """Cuts answers where streaming would cut them and gathers the slices into M rows.

  Every device gathers the slices of its own rows, so no state leaves its device.

  Args:
    params: group `llm`, for the head row of ".".
    cfg: `streaming` has the rule and N = `max_slice_tokens`.
    spoken: the answers.
    max_slices: maximum number of slices per row.
    places: M; 0 = batch size x `max_slices`.
  """
  rule, batch = cfg.streaming, spoken.ids.shape[0]
  period = head_embedding(params['llm'])[cfg.special_ids.period]
  scores = jax.lax.stop_gradient(trigger.scores(spoken.states, period))
  share = (places or batch * max_slices) // sharding.parts('batch', batch)
  find = functools.partial(_find_slices, rule, max_slices, share)
  found = sharding.by_rows(find, (scores, spoken.lengths, jnp.arange(batch)), differentiable=False)
  states, ids = sharding.by_rows(
    _take_slices, (spoken.states, spoken.ids, found.row, found.columns)
  )
  return SliceBatch(
    states,
    ids,
    found.lengths,
    found.number,
    found.overflow_slices.sum(),
    found.overflow_slice_tokens.sum(),
  )


def _find_slices(
  rule: StreamingConfig, max_slices: int, places: int, rows: tuple[Array, Array, Array]
) -> _Places:
  """Finds at most m = `places` slices of rows (scores float[b,A], lengths int[b], numbers
  int[b]).
  """
  scores, lengths, rows_of_batch = rows
  room = scores.shape[1]
  number = trigger.cut_slices(scores, lengths, rule)
  inside = jnp.arange(room) < lengths[:, None]
  counts = jnp.sum(inside[..., None] & (number[..., None] == jnp.arange(max_slices)), axis=1)
  starts = jnp.cumsum(counts, axis=1) - counts
  fits = (counts > 0) & (counts <= rule.max_slice_tokens)
  (chosen,) = jnp.nonzero(fits.reshape(-1), size=places, fill_value=0)
  filled = jnp.where(jnp.arange(places) < fits.sum(), counts.reshape(-1)[chosen], 0)
  columns = jnp.minimum(
    starts.reshape(-1)[chosen, None] + jnp.arange(rule.max_slice_tokens), room - 1
  )
  beyond = jnp.max(jnp.where(inside, number + 1 - max_slices, 0), axis=1, initial=0).sum()
  row = chosen // max_slices
  number = rows_of_batch[row] * max_slices + chosen % max_slices
  return _Places(
    row,
    columns,
    filled,
    number,
    (beyond + jnp.maximum(fits.sum() - places, 0))[None],
    jnp.sum(counts > rule.max_slice_tokens)[None],
  )


def _take_slices(rows: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
  """Gathers states float[b,A,D] and ids int[b,A] at rows int[m] and columns int[m,N] ->
  float[m,N,D], int[m,N].
  """
  states, ids, row, columns = rows
  return states[row[:, None], columns], ids[row[:, None], columns]


def spoken_text(cfg: EchoXConfig, likeliest: Array, slices: SliceBatch) -> tuple[Array, Array]:
  """Returns X' of the slices: the argmax ids without ids that are never spoken.

  The argmax inside an answer can be EOT, BOS or AUDIO. This would put an end-of-text marker, or a
  state that inference never speaks, into the T2C's input. The gold id replaces it.

  Args:
    cfg: has the special ids.
    likeliest: int[M,N].
    slices: `ids` and `lengths` of the M slices.

  Returns:
    (int[M,N], number of replaced real tokens, int32).
  """
  markers = jnp.asarray(prompts.markers(cfg.special_ids))
  inside = jnp.arange(likeliest.shape[1]) < slices.lengths[:, None]
  wrong = jnp.isin(likeliest, markers) & inside
  return jnp.where(wrong, slices.ids, likeliest), jnp.sum(wrong)


def pseudo_labels(
  params: dict, cfg: EchoXConfig, text: Array, lengths: Array, max_words: int
) -> generate.UnitWords:
  """Decodes unit words for text int[M,N] with the frozen T2C; no gradient."""
  t2c, table = jax.lax.stop_gradient((params['t2c'], params['unit_text_embedding']['embedding']))
  embedded = unit_decoder.embed_text(table, text)
  closed = unit_decoder.close_slices(cfg, table, embedded, text, lengths)
  return generate.decode_unit_words(t2c, cfg, table, *closed, max_words)


def recorded_words(
  recorded: Array, spoken: Answers, slices: SliceBatch, max_slices: int
) -> generate.UnitWords:
  """Returns the recorded unit words of the slices that are whole answers; other slices, for which
  there is no recording, get none.

  Args:
    recorded: int[B,W], right-padded with -1, row by row as in `spoken`.
    spoken: the answers.
    slices: M slices of them.
    max_slices: as for `batch_slices`.
  """
  row = slices.number // max_slices
  words = jnp.take(recorded, row, axis=0)
  whole = slices.lengths == spoken.lengths[row]
  lengths = jnp.where(whole & (slices.lengths > 0), jnp.sum(words >= 0, axis=1), 0)
  return generate.UnitWords(
    jnp.maximum(words, 0), lengths.astype(jnp.int32), jnp.zeros_like(slices.lengths)
  )


def echo_terms(
  params: dict,
  cfg: EchoXConfig,
  slices: SliceBatch,
  text: Array,
  words: generate.UnitWords,
  rng: Array | None,
  choices: LossConfig,
) -> tuple[losses.Mean, losses.Mean]:
  """Returns (cross-entropy of the echo decoder on Y', cosine distance of adapted states from text
  embeddings).

  Slices without words, or whose words exceed the budget, count only in the second term.

  Args:
    params: groups `unit_text_embedding`, `echo`, `denoising_adapter`.
    cfg: the model.
    slices: states and lengths of M slices.
    text: int[M,N], X'.
    words: Y' of the M slices.
    rng: dropout key; None = no dropout.
    choices: its `units_only` and `chunk_tokens`.
  """
  table, special = params['unit_text_embedding']['embedding'], cfg.special_ids
  dropout = s2t_step.dropout(rng)
  adapted = _read(params, cfg, slices, text, rng)
  spoken = jnp.arange(text.shape[1]) < slices.lengths[:, None]
  denoising = losses.denoising_cosine(adapted, unit_decoder.embed_text(table, text), spoken)

  column = jnp.arange(words.ids.shape[1] + 2)
  length = words.lengths[:, None]
  ids = jnp.pad(words.ids + cfg.llm.vocab_size, ((0, 0), (1, 1)), constant_values=special.bos)
  target = jnp.where(column <= length, ids, special.eot)
  usable = (slices.lengths > 0) & (words.lengths > 0) & (words.overflow == 0)
  labels = jnp.where(usable[:, None] & (column <= length + 1), target, IGNORE)

  model, variables = UnitDecoder(cfg), {'params': params['echo']}
  closed = unit_decoder.close_slices(cfg, table, adapted, text, slices.lengths)
  prompt = unit_decoder.slice_prompt(cfg, table, *closed)
  row = unit_decoder.extend(prompt, model.apply(variables, table, target[:, :-1], method='embed'))
  hidden, _ = model.apply(
    variables,
    row.embeddings,
    row.positions,
    Mask(row.valid, causal=True),
    **dropout,
    method='hidden',
  )
  states = hidden[:, prompt.valid.shape[1] - 1 :]
  head, labels = _unit_head(params['echo'], cfg, labels, choices)
  return chunked_losses.cross_entropy(states, head, labels, choices.chunk_tokens), denoising


def _unit_head(
  params: dict, cfg: EchoXConfig, labels: Array, choices: LossConfig
) -> tuple[Array, Array]:
  """The rows of a unit decoder's head that are scored, and the labels as numbers of these rows."""
  if not choices.units_only:
    return head_embedding(params), labels
  words = jnp.where(labels >= cfg.llm.vocab_size, labels - cfg.llm.vocab_size + 1, IGNORE)
  labels = jnp.where(labels == cfg.special_ids.eot, 0, words)  # BOS, which is given, does not count
  return generate.unit_rows(params, cfg), labels


def _read(
  params: dict, cfg: EchoXConfig, slices: SliceBatch, text: Array, rng: Array | None
) -> Array:
  """Returns what the echo decoder reads, float[M,N,D]. Dropout depends on a slice's number, not on
  its row in M.
  """
  if rng is None:
    return unit_decoder.read_answer(params, cfg, slices.states, text)

  def one(states: Array, ids: Array, number: Array) -> Array:
    rngs = {'dropout': jax.random.fold_in(rng, number)}
    return unit_decoder.read_answer(params, cfg, states, ids, deterministic=False, rngs=rngs)

  return jax.vmap(one)(slices.states, text, slices.number)


def _labelled(hidden: Array, labels: Array, room: int) -> tuple[Array, Array, Array]:
  """Takes `room` columns from each row's first label on: (hidden float[B,room,h], labels
  int[B,room], number of labels cut off).
  """
  counted = labels != IGNORE
  columns = jnp.argmax(counted, axis=1)[:, None] + jnp.arange(room)
  inside = columns < labels.shape[1]
  columns = jnp.minimum(columns, labels.shape[1] - 1)
  taken = jnp.where(inside, jnp.take_along_axis(labels, columns, axis=1), IGNORE)
  missed = (counted.sum() - (taken != IGNORE).sum()).astype(jnp.float32)
  return jnp.take_along_axis(hidden, columns[..., None], axis=1), taken, missed


def _own_answers(
  params: dict, cfg: EchoXConfig, batch: dict, max_new_tokens: int
) -> tuple[dict, Array]:
  """Replaces the gold answers of a batch by the model's own greedy answers; returns the batch and
  the number of answers that did not fit or end.
  """
  ids, labels = batch['input_ids'], batch['labels']
  room = ids.shape[1]
  before = jnp.argmax(labels != IGNORE, axis=1)[:, None]
  prompt = jnp.where(jnp.arange(room) < before, ids, cfg.special_ids.pad)
  frozen = {group: jax.lax.stop_gradient(params[group]) for group in ('llm', 'adapter')}
  answer = functools.partial(_answer, cfg, min(room, max_new_tokens))
  made = sharding.by_rows(
    answer, (prompt, batch['states'], batch['state_lengths']), frozen, differentiable=False
  )
  offset = jnp.arange(room) - before
  said = (offset >= 0) & (offset < made.lengths[:, None])
  own = jnp.take_along_axis(made.ids, jnp.clip(offset, 0, made.ids.shape[1] - 1), axis=1)
  cut = (made.overflow > 0) | (made.lengths + before[:, 0] > room)
  return {
    **batch,
    'input_ids': jnp.where(said, own, prompt),
    'labels': jnp.where(said, own, IGNORE),
  }, cut.sum().astype(jnp.float32)


def _answer(
  cfg: EchoXConfig, max_tokens: int, rows: tuple[Array, Array, Array], params: dict
) -> generate.Generated:
  """Generates greedy answers to rows of prompts and speech."""
  return generate.generate_text(params, cfg, *rows, max_tokens)
