"""Opens a released EchoX folder, merged or as a PEFT LoRA, and finds its groups (facts 6, 9 and
12).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from echox_jax import config as config_lib
from echox_jax import model_folder
from echox_jax.config import EchoXConfig, EngineConfig
from echox_jax.conversion import (
  hf_folder,
  llm_hf,
  released,
  released_config,
  released_units,
  rules,
  unit_vocabulary,
)
from echox_jax.conversion.imported import Imported
from echox_jax.units.unit_language import UnitLanguage

# fields of config.json in our own exports: our whole config, and the budgets
OWN_CONFIG, OWN_ENGINE = 'echox_jax', 'echox_jax_engine'


def open_echox(
  source: Path, config: Path | None = None, base: Path | None = None, unit_vocab: Path | None = None
) -> Imported:
  """An EchoX checkpoint: the LLM and adapter, and the unit decoder if there is one (as `t2c` after
  stage 2, else `echo`).

  Args:
    source: folder of the model, or of a LoRA for it.
    config: replaces config.json; may hold all sections of `released_config.config_from_json`.
    base: the folder of the base model if `source` is a LoRA.
    unit_vocab: the unit vocabulary, if the folder does not hold it.

  Raises:
    CheckpointError, ConfigError: something is missing or damaged, or the vocabulary lacks the audio
      token.
  """
  tensors, folders = llm_hf.open_merged(source, base)
  values = llm_hf.read_config(folders, config)
  files = hf_folder.tokenizer_files(folders)
  tokens = hf_folder.read_tokens(files)
  shapes = rules.shapes_of(tensors)
  if OWN_CONFIG in values:  # our own export: nothing has to be inferred
    model, moved = config_lib.split_model(values[OWN_CONFIG])
    sections, cfg = {'echox': values}, config_lib.build(EchoXConfig, model, OWN_CONFIG)
    budgets = values.get(OWN_ENGINE, moved.get('engine', {}))
    engine = config_lib.build(EngineConfig, budgets, OWN_ENGINE)
  else:
    sections = released_config.complete(values, shapes, hf_folder.special_ids(files, tokens))
    cfg = released_config.config_from_json(sections)
    engine = released_config.engine_from_json(sections)
  own, groups = released.s2t_rules(cfg), ['llm', 'adapter']
  language, output = None, sections['echox'].get('unit_output')
  if output or any(name.startswith(released.UNIT_PREFIX) for name in shapes):
    adapted = str(output).startswith('finetune') or any(
      name.startswith(released_units.ALIGNER) for name in shapes
    )
    decoder = 'echo' if adapted else 't2c'
    own += released_units.unit_rules(cfg, decoder, adapted)
    groups += ['unit_text_embedding', decoder, *(['denoising_adapter'] if adapted else [])]
    exact = source / model_folder.UNIT_LANGUAGE  # our own exports have it beside the vocabulary
    language = (
      UnitLanguage.load(exact)
      if exact.is_file() and unit_vocab is None
      else unit_vocabulary.find(
        unit_vocab or _named_file(sections['echox'], folders),
        tokens,
        cfg.llm.vocab_size,
        cfg.unit_decoder.unit_vocab_size,
      )
    )
  return Imported(
    f'the EchoX model in {source}',
    cfg,
    tuple(groups),
    own,
    llm_hf.own_tensors(tensors, cfg.llm.tie_embeddings),
    files,
    language,
    engine=engine,
  )


def _named_file(values: Mapping[str, Any], folders: list[Path]) -> Path | None:
  """The file that the config calls `unit_vocab`. Only its name is used, because its path belongs to
  another machine.
  """
  name = values.get('unit_vocab')
  found = (
    [folder / Path(name).name for folder in folders if (folder / Path(name).name).is_file()]
    if name
    else []
  )
  return found[0] if found else None
