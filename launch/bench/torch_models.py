"""Models of transformers of the sizes of our configs, with random weights.

The comparisons use it. It imports neither JAX nor `echox_jax`: `launch.bench.authors` runs where
they are not installed. A config is anything with the fields of `echox_jax.config`.
"""

from typing import Any


def whisper_encoder(cfg: Any) -> Any:
  """Makes transformers' Whisper encoder of a `WhisperConfig`."""
  import transformers
  from transformers.models.whisper.modeling_whisper import WhisperEncoder

  sizes = transformers.WhisperConfig(
    d_model=cfg.hidden_size,
    encoder_layers=cfg.num_layers,
    encoder_attention_heads=cfg.num_heads,
    encoder_ffn_dim=cfg.intermediate_size,
    num_mel_bins=cfg.num_mel_bins,
    max_source_positions=cfg.max_positions,
  )
  return WhisperEncoder(sizes).eval()


def llama_sizes(cfg: Any) -> dict[str, Any]:
  """The fields of transformers' `LlamaConfig` for a `LlamaConfig`."""
  return {
    'vocab_size': cfg.vocab_size,
    'hidden_size': cfg.hidden_size,
    'intermediate_size': cfg.intermediate_size,
    'num_hidden_layers': cfg.num_layers,
    'num_attention_heads': cfg.num_heads,
    'num_key_value_heads': cfg.num_kv_heads,
    'head_dim': cfg.head_dim,
    'rms_norm_eps': cfg.rms_norm_eps,
  }
