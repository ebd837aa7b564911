"""The random model of `launch.bench respond`, and its parts one by one."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from echox_jax import model_folder
from echox_jax.inference import programs as programs_lib
from echox_jax.inference.chat import Model
from echox_jax.inference.engine import Engine
from echox_jax.models import params as params_lib
from echox_jax.training import flops
from echox_jax.training.experiment import ExperimentConfig
from echox_jax.units.unit_language import PlainModel, UnitLanguage

FRAMES = 2  # of a unit
UNITS = 2  # of a unit word


class Numbers:
  """A tokenizer whose texts are ids."""

  def encode(self, text: str) -> list[int]:
    return [int(word) for word in text.split()]

  def decode(self, ids: Any) -> str:
    return ' '.join(map(str, ids))


def make(job: ExperimentConfig) -> Model:
  """Makes random weights; the LLM never says EOT, the echo decoder only unit words."""
  cfg = job.model
  draw = jax.jit(
    lambda key: nn.meta.unbox(params_lib.init_groups(key, cfg, model_folder.ANSWERING))
  )
  params = jax.tree.map(np.array, draw(jax.random.key(0)))
  params['llm']['lm_head']['embedding'][cfg.special_ids.eot] = 0.0
  params['echo']['lm_head']['embedding'][: cfg.llm.vocab_size] = 0.0
  proj = params['vocoder']['duration_predictor']['proj']
  proj['kernel'][:], proj['bias'][:] = 0.0, np.log(1.0 + FRAMES)
  rng = np.random.default_rng(0)
  spelt = rng.integers(0, cfg.units.num_units, (cfg.units.vocab_size, UNITS)).tolist()
  language = UnitLanguage('plain', cfg.units.num_units, PlainModel(tuple(map(tuple, spelt))))
  return Model(cfg, params, job.engine, Numbers(), language)


def parts(engine: Engine, wave: np.ndarray) -> dict[str, Callable[[], Any]]:
  """Encoder, echo decoder and vocoder alone, by the programs that answer."""
  programs, params, budgets = engine.programs, engine.params, engine.budgets
  tokens = engine.config.streaming.max_slice_tokens
  state = programs.new_conversations()
  spelling = jax.tree.map(jnp.asarray, programs_lib.spelling(engine.unit_language, engine.config))
  none, zero = np.int32(0), np.float32(0)
  frames = np.zeros((1, budgets.max_frames), np.int32)

  def encode():
    return programs.hear(params, wave[None], np.asarray([len(wave)], np.int32))

  said = programs.new_speaking()

  def say():
    nonlocal said
    said = programs.begin_slice(
      params, said, none, state.states, none, none, np.int32(tokens), zero
    )
    rows = programs.rows([0], said.going.shape[0])
    said, spoken = programs.speak_chunk(params, said, rows, spelling, rows == 0, np.int32(10**6))
    return spoken

  def vocode():
    return programs.wave(params, frames, frames == 0)

  return {'encoder_s': encode, 't2c_s': say, 'vocoder_s': vocode}


def shares(
  figures: dict[str, float], job: ExperimentConfig, limits: dict[str, float]
) -> dict[str, dict[str, float]]:
  """Each part's share of what the machine can do: of its FLOPs, or of its bytes where weights are
  read for one row.
  """
  cfg, engine = job.model, job.engine
  states = cfg.whisper.max_positions
  encoder = (
    flops.log_mel_forward(cfg.whisper.num_mel_bins, 1, 2 * states)
    + flops.whisper_forward(cfg.whisper, 1, states)
    + sum(flops.adapter_forward(cfg, 1, states // 2).values())
  )
  vocoder = flops.vocoder_forward(cfg.vocoder, 1, engine.max_frames)
  llm = _step_bytes(cfg.llm, cfg.llm.vocab_size) * engine.max_new_tokens
  words = cfg.llm.vocab_size + cfg.unit_decoder.unit_vocab_size
  t2c = _step_bytes(cfg.unit_decoder.trunk, words) * engine.max_unit_words
  thinking = figures['text_only_s'] - figures['encoder_s']
  return {
    'share_of_limit': {
      'encoder': encoder / figures['encoder_s'] / limits['gflops'] / 1e9,
      'vocoder': vocoder / figures['vocoder_s'] / limits['gflops'] / 1e9,
      'text_only': llm / thinking / limits['gbytes_per_s'] / 1e9,
      't2c': t2c / figures['t2c_s'] / limits['gbytes_per_s'] / 1e9,
    }
  }


def _step_bytes(trunk: Any, choices: int) -> float:
  """float32 weights that a token reads: half of the FLOPs are one weight each."""
  products = flops.llama_step(trunk, 1, 0) + flops.head_forward(trunk.hidden_size, choices, 1)
  return products / 2 * 4
