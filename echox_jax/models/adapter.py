"""Soundwave adapter (facts 3): turns Whisper states into a short sequence of LLM input vectors.

It projects pairs of states, aligns them with text by CTC, and keeps the first frame of each run of
equal CTC labels. These frames look back at the frames, or become words of the LLM (`output`).
Parameters: `projection`, `alignment/{self_attn,norm1,norm2,linear1,linear2}`, with more layers
`alignment_1` and so on, `out_norm`, `ctc_head/embedding` [V,D] or, with `tied_ctc`, `ctc_blank` [D]
and, with `spelled_ctc`, `ctc_spelling` [D,D]; where frames are the output,
`look_back/{attention,norm}`.

A turn axis can hold several clips of one conversation: shapes below have leading axes [B] or
[B,turns].
"""

import dataclasses
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from echox_jax import errors
from echox_jax.config import AdapterConfig, EchoXConfig
from echox_jax.models import chunked_head, layers
from echox_jax.models.arrays import Array, Bool, Float, Int
from echox_jax.models.attention import Mask


class EmbeddedSpeech(NamedTuple):
  """The fields of `Speech` that the LLM needs."""

  embeddings: Array
  kept: Array
  overflow: Array


class Speech(NamedTuple):
  """Embedded speech: S slots (`shrink_budget`), F frames of 40 ms, leading axes [B] or [B,turns].

  Attributes:
    embeddings: float[...,S,D], zero beyond `kept`.
    kept: int[...], slots in use.
    overflow: int[...], runs left out because all slots were in use.
    frames: float[...,F,D], the input of the CTC head.
    frame_lengths: int[...], frames of each clip.
    labels: int[...,S], the CTC label of each slot, the blank beyond `kept`. A slot stands for a run
      of equal labels, so that those which are no blank are the best path of CTC: what was said.
  """

  embeddings: Array
  kept: Array
  overflow: Array
  frames: Array
  frame_lengths: Array
  labels: Array

  def for_llm(self) -> EmbeddedSpeech:
    """Leaves out what the LLM does not need."""
    return EmbeddedSpeech(self.embeddings, self.kept, self.overflow)


class TextTables(NamedTuple):
  """What an adapter knows of the LLM's tokens; None where it needs nothing (`text_tables`).

  Attributes:
    embeddings: float[V,D], the LLM's input embeddings.
    spelling: float[V,D], how tokens are written (`units.spelling`).
  """

  embeddings: Array | None = None
  spelling: Array | None = None


NO_TABLES = TextTables()


class Candidates(NamedTuple):
  """Ids among which a step chooses its CTC labels (`training.candidates`).

  Attributes:
    ids: int[K], ascending, without the blank.
    stands_for: float32[K], how many ids of the vocabulary each one stands for.
  """

  ids: Array
  stands_for: Array


class CtcTable(NamedTuple):
  """The rows whose dot products with a frame are its CTC logits.

  Attributes:
    rows: float[V,D], one for each id; with `candidates` float[K,D], one for each of these.
    blank: float[D], the row of the blank in place of that in `rows`; None = that one.
    candidates: with them, `blank` has a row of its own.
  """

  rows: Array
  blank: Array | None = None
  candidates: Candidates | None = None


class AlignmentLayer(nn.Module):
  """One pre-norm ReLU transformer layer (facts 3.3); `keys` are the visible positions."""

  cfg: AdapterConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, 'N T D'], keys: Bool[Array, 'N T'], deterministic: bool
  ) -> Float[Array, 'N T D']:
    cfg = self.cfg

    def norm(name):
      return layers.LayerNorm(cfg.layer_norm_eps, cfg.dtype, name=name)

    drop = nn.Dropout(cfg.dropout, deterministic=deterministic)
    attend = layers.MultiHeadAttention(
      cfg.num_heads, dropout=cfg.dropout, dtype=cfg.dtype, name='self_attn'
    )
    x = x + drop(attend(norm('norm1')(x), mask=Mask(keys), deterministic=deterministic))
    y = layers.Dense(
      cfg.intermediate_size, ('embed', 'mlp'), use_bias=True, dtype=cfg.dtype, name='linear1'
    )(norm('norm2')(x))
    y = layers.Dense(x.shape[-1], ('mlp', 'embed'), use_bias=True, dtype=cfg.dtype, name='linear2')(
      drop(nn.relu(y))
    )
    return x + drop(y)


class LookBack(nn.Module):
  """LN(S + attention of S over the frames) (facts 3.7); `keys` are the visible frames."""

  cfg: AdapterConfig

  @nn.compact
  def __call__(
    self,
    kept: Float[Array, 'N S D'],
    frames: Float[Array, 'N F D'],
    keys: Bool[Array, 'N F'],
    deterministic: bool,
  ) -> Float[Array, 'N S D']:
    cfg = self.cfg
    attend = layers.MultiHeadAttention(
      cfg.num_heads, dropout=cfg.dropout, dtype=cfg.dtype, name='attention'
    )
    seen = attend(kept, frames, mask=Mask(keys), deterministic=deterministic)
    return layers.LayerNorm(cfg.layer_norm_eps, cfg.dtype, name='norm')(kept + seen)


class SoundwaveAdapter(nn.Module):
  """Turns Whisper states into `Speech`."""

  cfg: EchoXConfig

  def setup(self):
    cfg, width = self.cfg.adapter, self.cfg.llm.hidden_size
    if cfg.variant not in ('paper', 'released'):
      raise errors.ConfigError(f'adapter.variant is {cfg.variant!r}: use paper or released.')
    if cfg.num_layers < 1:
      raise errors.ConfigError(f'adapter.num_layers is {cfg.num_layers}: give 1 or more.')
    if cfg.output not in ('frames', 'words'):
      raise errors.ConfigError(f'adapter.output is {cfg.output!r}: use frames or words.')
    if cfg.output == 'words' and not cfg.drop_blank:
      raise errors.ConfigError('adapter.output is words: set adapter.drop_blank, no word is blank.')
    if cfg.spelled_ctc and not cfg.tied_ctc:
      raise errors.ConfigError(
        'adapter.spelled_ctc is set: set adapter.tied_ctc, to which it adds.'
      )
    if cfg.spelled_ctc and self.cfg.unit_decoder.text_table != 'spelling':
      raise errors.ConfigError(
        'adapter.spelled_ctc is set: set unit_decoder.text_table to spelling, the table it takes.'
      )
    self.projection = layers.Dense(width, ('mlp', 'embed'), use_bias=True, dtype=cfg.dtype)

    # Attention weights [clips,heads,frames,frames] are the largest arrays of a step, so these
    # layers use remat if the LLM does.
    def lean(layer, deterministic):
      return (
        layer if self.cfg.llm.remat == 'none' else nn.remat(layer, static_argnums=deterministic)
      )

    layer = lean(AlignmentLayer, 3)
    self.alignment = layer(cfg)
    for i in range(1, cfg.num_layers):
      setattr(self, f'alignment_{i}', layer(cfg))
    self.out_norm = layers.LayerNorm(cfg.layer_norm_eps, cfg.dtype)
    if cfg.tied_ctc:
      init = nn.with_logical_partitioning(layers.default_init, ('norm',))
      self.ctc_blank = self.param('ctc_blank', init, (width,), jnp.float32)
      if cfg.spelled_ctc:
        init = nn.with_logical_partitioning(layers.default_init, ('embed', 'mlp'))
        self.ctc_spelling = self.param('ctc_spelling', init, (width, width), jnp.float32)
    else:
      self.ctc_head = layers.Embed(self.cfg.llm.vocab_size, width, dtype=cfg.dtype)
    if cfg.output == 'frames':
      self.look_back = lean(LookBack, 4)(cfg)

  def __call__(
    self,
    states: Float[Array, '*b E Dw'],
    state_lengths: Int[Array, '*b'],
    deterministic: bool = True,
    tables: TextTables = NO_TABLES,
    candidates: Candidates | None = None,
  ) -> Speech:
    """Shrinks states at 50 Hz to LLM input embeddings; an odd last state is dropped.

    Everything except the selection is differentiable. Padding does not influence a clip.
    `tables`, `candidates`: as for `ctc_table`.
    """
    released = self.cfg.adapter.variant == 'released'
    lead, width = states.shape[:-2], self.cfg.llm.hidden_size
    frames, frame_lengths = self.frames(states, state_lengths, deterministic)
    flat = frames.reshape(-1, *frames.shape[-2:])
    real = jnp.arange(flat.shape[1]) < frame_lengths.reshape(-1, 1)

    table = self.ctc_table(tables, candidates)
    labels = self._labels(flat, table)
    as_words = self.cfg.adapter.output == 'words'
    keep = kept_frames(labels, real, self._dropped_label(), first_stays=not as_words)
    index, valid, overflow = select(keep, self.cfg.adapter.shrink_budget)
    shrunk = jnp.take_along_axis(flat, index[..., None], axis=1)
    if as_words:
      out = self._words(shrunk, valid, table, tables.embeddings)
    else:  # the released one masks exactly the dropped frames; Soundwave intends to look at all
      out = self.look_back(shrunk, flat, keep if released else real, deterministic)
    out = jnp.where(valid[..., None], out, 0)
    said = jnp.where(valid, jnp.take_along_axis(labels, index, axis=1), self.cfg.special_ids.audio)
    return Speech(
      out.reshape(*lead, -1, width),
      jnp.sum(valid, axis=-1).reshape(lead),
      overflow.reshape(lead),
      frames,
      frame_lengths,
      said.reshape(*lead, -1),
    )

  def frames(
    self,
    states: Float[Array, '*b E Dw'],
    state_lengths: Int[Array, '*b'],
    deterministic: bool = True,
  ) -> tuple[Float[Array, '*b F D'], Int[Array, '*b']]:
    """Gives the frames of `Speech`, and how many each clip has."""
    lengths = state_lengths // 2
    real = jnp.arange(states.shape[-2] // 2) < lengths[..., None]
    aligned = self._align(self.projection(pair_frames(states)), real, deterministic)
    return self.out_norm(aligned), lengths

  def ctc_table(
    self, tables: TextTables = NO_TABLES, candidates: Candidates | None = None
  ) -> CtcTable:
    """Returns what scores the CTC labels; with `tied_ctc` it takes the LLM's `tables`, with
    `candidates` these labels are all there are.
    """
    ids = slice(None) if candidates is None else candidates.ids
    if not self.cfg.adapter.tied_ctc:
      rows = self.ctc_head.embedding
      blank = None if candidates is None else rows[self.cfg.special_ids.audio]
      return CtcTable(rows[ids], blank, candidates)
    rows = jax.lax.stop_gradient(tables.embeddings)[ids]
    if self.cfg.adapter.spelled_ctc:
      letters = jax.lax.stop_gradient(tables.spelling)[ids].astype(jnp.float32)
      rows = rows.astype(jnp.float32) + letters @ self.ctc_spelling
    return CtcTable(rows, self.ctc_blank, candidates)

  def _words(
    self,
    frames: Float[Array, 'N S D'],
    used: Bool[Array, 'N S'],
    table: CtcTable,
    embeddings: Float[Array, 'V D'],
  ) -> Float[Array, 'N S D']:
    """The words that kept frames are, as input embeddings of the LLM."""
    values, blank = jax.lax.stop_gradient(embeddings), self.cfg.special_ids.audio
    if table.candidates:
      values, blank = values[table.candidates.ids], None
    chunk = self.cfg.adapter.ctc_chunk
    return chunked_head.mean_row(frames, table.rows, values, chunk, blank, used)

  def _labels(self, frames: Float[Array, 'N F D'], table: CtcTable) -> Int[Array, 'N F']:
    """Finds the likeliest CTC label of each frame."""
    chunk, blank = self.cfg.adapter.ctc_chunk, self.cfg.special_ids.audio
    if table.blank is None:
      return chunked_head.argmax(frames, table.rows, chunk)
    few = table.candidates
    others = chunked_head.best(frames, table.rows, chunk, without=None if few else blank)
    ids = few.ids[others.id] if few else others.id
    return jnp.where(chunked_head.logit_of(frames, table.blank) > others.logit, blank, ids)

  def _align(self, x: Array, real: Array, deterministic: bool) -> Array:
    """Applies the alignment layers over time; `released`: over turns, per frame (facts 3.3)."""
    if self.cfg.adapter.variant == 'paper':
      flat, keys = x.reshape(-1, *x.shape[-2:]), real.reshape(-1, real.shape[-1])
      return self._layers(flat, keys, deterministic).reshape(x.shape)
    turns = x if x.ndim == 4 else x[:, None]
    by_frame = turns.swapaxes(1, 2)
    keys = real.reshape(turns.shape[:-1]).swapaxes(1, 2)
    flat = self._layers(
      by_frame.reshape(-1, *by_frame.shape[2:]), keys.reshape(-1, keys.shape[-1]), deterministic
    )
    return flat.reshape(by_frame.shape).swapaxes(1, 2).reshape(x.shape)

  def _layers(self, x: Array, keys: Array, deterministic: bool) -> Array:
    x = self.alignment(x, keys, deterministic)
    for i in range(1, self.cfg.adapter.num_layers):
      x = getattr(self, f'alignment_{i}')(x, keys, deterministic)
    return x

  def _dropped_label(self) -> int | None:
    return self.cfg.special_ids.audio if self.cfg.adapter.drop_blank else None


def ctc_table(params: dict, cfg: EchoXConfig, candidates: Candidates | None = None) -> CtcTable:
  """Returns what scores the CTC labels, from the groups `adapter` and, with `tied_ctc`, `llm`."""
  return SoundwaveAdapter(cfg).apply(
    {'params': params['adapter']}, text_tables(params, cfg), candidates, method='ctc_table'
  )


def text_tables(params: dict, cfg: EchoXConfig) -> TextTables:
  """Returns what the adapter needs of the groups `llm` and `unit_text_embedding`."""
  return TextTables(
    params['llm']['embed_tokens']['embedding'] if _embeds(cfg) else None,
    params['unit_text_embedding']['embedding'] if cfg.adapter.spelled_ctc else None,
  )


def read_paths(cfg: EchoXConfig) -> list[str]:
  """Returns the paths of all parameters that hearing reads behind the speech encoder."""
  more = {'llm/embed_tokens': _embeds(cfg), 'unit_text_embedding': cfg.adapter.spelled_ctc}
  return ['adapter', *(path for path, is_read in more.items() if is_read)]


def _embeds(cfg: EchoXConfig) -> bool:
  return cfg.adapter.tied_ctc or cfg.adapter.output == 'words'


def with_own_table(params: dict, cfg: EchoXConfig) -> dict:
  """Returns the group `adapter` with a table of its own in place of `spelled_ctc`, whose rows are
  the same: nothing has to be added up for each question. It fits `own_table_config`.
  """
  rows, blank, _ = ctc_table(params, cfg)
  rest = {
    name: leaf
    for name, leaf in params['adapter'].items()
    if name not in ('ctc_blank', 'ctc_spelling')
  }
  return rest | {'ctc_head': {'embedding': rows.at[cfg.special_ids.audio].set(blank)}}


def own_table_config(cfg: EchoXConfig) -> EchoXConfig:
  """Returns the config that fits `with_own_table`."""
  adapter = dataclasses.replace(cfg.adapter, tied_ctc=False, spelled_ctc=False)
  return dataclasses.replace(cfg, adapter=adapter)


def ctc_logits(
  frames: Float[Array, '*b F D'], table: CtcTable, blank: int
) -> Float[Array, '*b F V']:
  """Computes all CTC logits of frames, in float32; `blank` is the id of the blank."""
  return with_blank(chunked_head.logits(frames, table.rows), frames, table, blank)


def with_blank(
  logits: Float[Array, '*b F V'], frames: Float[Array, '*b F D'], table: CtcTable, blank: int
) -> Float[Array, '*b F V']:
  """Puts the logit of the blank, if it has a row of its own, among those of `table.rows`."""
  if table.blank is None:
    return logits
  own = chunked_head.logit_of(frames, table.blank)[..., None]
  return jnp.where(chunked_head.ids_of(logits) == blank, own, logits)


def pair_frames(states: Float[Array, '*b E Dw']) -> Float[Array, '*b F Dw2']:
  """Concatenates states 2t and 2t + 1 (facts 3.1); an odd last state is dropped."""
  pairs = states.shape[-2] // 2
  return states[..., : 2 * pairs, :].reshape(*states.shape[:-2], pairs, 2 * states.shape[-1])


def kept_frames(
  labels: Int[Array, 'B F'],
  real: Bool[Array, 'B F'],
  dropped: int | None = None,
  first_stays: bool = True,
) -> Bool[Array, 'B F']:
  """Marks the first frame of each run of equal CTC labels among the real frames (facts 3.6).

  Runs of the label `dropped` are left out, but for the first frame if it always stays. By default
  runs of blanks are kept like other runs, as released.
  """
  begins = jnp.pad(labels[:, 1:] != labels[:, :-1], ((0, 0), (1, 0)), constant_values=True)
  if dropped is not None:
    stays = first_stays & (jnp.arange(labels.shape[1]) == 0)
    begins &= (labels != dropped) | stays
  return begins & real


def select(
  keep: Bool[Array, 'B F'], budget: int
) -> tuple[Int[Array, 'B S'], Bool[Array, 'B S'], Int[Array, ' B']]:
  """Finds the first `budget` True values of each row with static shapes.

  Returns:
    (index of each slot, whether the slot is in use, number of True values beyond the budget).
  """
  counts = jnp.cumsum(keep, axis=-1)
  slots = jnp.arange(1, budget + 1)
  index = jax.vmap(lambda row: jnp.searchsorted(row, slots))(counts)
  total = counts[:, -1:]
  return (
    jnp.minimum(index, keep.shape[1] - 1),
    slots <= total,
    jnp.maximum(total[:, 0] - budget, 0),
  )


def init_adapter(key: Array, cfg: EchoXConfig) -> dict:
  """Makes boxed parameters of the adapter."""
  states = jnp.zeros((1, 2, cfg.whisper.hidden_size))
  table = {'embedding': jnp.zeros((cfg.llm.vocab_size, cfg.llm.hidden_size))}
  tables = text_tables({'llm': {'embed_tokens': table}, 'unit_text_embedding': table}, cfg)
  made = SoundwaveAdapter(cfg).init(key, states, jnp.full((1,), 2), tables=tables)
  return made['params']
