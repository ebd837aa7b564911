"""Initial parameters of a stage: from earlier stages, from other checkpoints, or copied between
groups.
"""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np

from echox_jax import errors, storage, tensor_files, tokenizer
from echox_jax.models.trees import flatten
from echox_jax.parallel import placing
from echox_jax.storage import Path
from echox_jax.training import checkpoint, stages
from echox_jax.training.experiment import ExperimentConfig
from echox_jax.units import spelling

SCRATCH = 'scratch'  # as the only entry of init_from: start any stage from scratch
WEIGHTS = 'model.safetensors'
_TABLES = ('llm/embed_tokens/embedding', 'llm/lm_head/embedding')  # float[V,D], one row per id
Specs = dict[str, jax.ShapeDtypeStruct]  # `group/path` -> shape, dtype and sharding
# size, e.g. `tiny.en` -> parameters of the speech encoder that comes with a package
PackagedEncoder = Callable[[str], dict]


@dataclasses.dataclass(frozen=True)
class ParamSource:
  """A checkpoint to start from.

  Attributes:
    name: for messages.
    shapes: `group/path` -> shape of all its parameters.
    read: returns the requested paths as arrays on the shardings of their specs.
  """

  name: str
  shapes: dict[str, tuple[int, ...]]
  read: Callable[[Specs], dict[str, jax.Array]]

  def has(self, prefix: str) -> bool:
    """Returns whether there are parameters under `prefix`."""
    return any(path.startswith(prefix + '/') for path in self.shapes)


def open_sources(
  stage: stages.Stage, experiment: ExperimentConfig, workdir: str | os.PathLike[str]
) -> list[ParamSource] | None:
  """Opens the checkpoints of `train.init_from` (default: the stage's predecessors), in order; None
  = from scratch.

  Raises:
    CheckpointError: a predecessor is not finished, or a folder has no checkpoint to start from.
  """
  init, workdir = experiment.train.init_from or stage.starts_from, storage.path(workdir)
  spelled = _spelling(stage, experiment, workdir)
  if init == (SCRATCH,):
    return spelled or None
  return [open_source(entry, stage, workdir) for entry in init] + spelled


def load_initial(
  stage: stages.Stage,
  experiment: ExperimentConfig,
  sources: list[ParamSource] | None,
  wanted: Specs,
  packaged_encoder: PackagedEncoder | None = None,
) -> dict[str, jax.Array]:
  """Loads the `wanted` parameters that do not start fresh, each on its sharding.

  Every group is taken whole from the first source that has it. If no source has it, it is a copy if
  the table of stages says so. If no source has the speech encoder, it comes from
  `packaged_encoder`. LoRA leaves that the source lacks start fresh. Rows of added special ids that
  its tables lack start as the mean of the other rows, as likely as an average id: a base Llama 3
  has 128,256 rows, and AUDIO is id 128,256 of the config.

  Raises:
    CheckpointError: no source has a group that must come from a source, or shapes differ.
  """
  scratch, sources = sources is None, sources or []
  copies = stage.copies_for(experiment)
  loaded, pending = {}, []
  for group in stage.groups_for(experiment):
    specs = {path: spec for path, spec in wanted.items() if path.startswith(group + '/')}
    origin = next(
      (o for o in (group, copies.get(group)) if o and any(s.has(o) for s in sources)), None
    )
    if origin is None and group == 'whisper' and packaged_encoder is not None:
      loaded |= _from_package(packaged_encoder, experiment.speech_encoder, specs)
    elif origin is not None:
      source = next(s for s in sources if s.has(origin))
      pending.append((source, {path: origin + path.removeprefix(group) for path in specs}))
    elif group == 'whisper' or (group in stage.inherits and not scratch):
      names = 'none of ' + ', '.join(source.name for source in sources) if sources else 'nothing'
      raise errors.CheckpointError(
        f'stage {stage.name!r} needs the parameters of {group!r}, which {names} has: add a '
        'checkpoint that has them to train.init_from.'
      )
  for source in sources:
    names = {
      path: origin for where, pairs in pending if where is source for path, origin in pairs.items()
    }
    loaded |= _read(source, names, wanted, experiment.model.special_ids.all())
  return loaded


def _read(
  source: ParamSource, names: dict[str, str], wanted: Specs, special_ids: set[int]
) -> dict[str, jax.Array]:
  """Reads {our path: path in the source}; two of our paths may share a source path."""
  names = {
    path: origin
    for path, origin in names.items()
    if origin in source.shapes or not path.endswith(('/lora_a', '/lora_b'))
  }
  # If one of two users is trained and the other is frozen in a narrower dtype, read it in the
  # trained one's dtype.
  specs = {
    names[path]: wanted[path]
    for path in sorted(names, key=lambda path: wanted[path].dtype.itemsize)
  }
  stored = {
    origin: _stored(origin, spec, source.shapes.get(origin), special_ids)
    for origin, spec in specs.items()
  }
  checkpoint.check_shapes(
    source.name, source.shapes, {origin: spec.shape for origin, spec in stored.items()}
  )
  arrays = source.read(stored) if stored else {}
  arrays |= {
    origin: _with_added_rows(arrays[origin], spec)
    for origin, spec in specs.items()
    if spec is not stored[origin]
  }
  first_user = {}
  for path, origin in names.items():
    first_user.setdefault(origin, path)

  # A second user gets its own buffer: trained parameters are donated to the step, frozen ones are
  # not.
  def own(path, origin):
    return arrays[origin] if first_user[origin] == path else arrays[origin].copy()

  return {path: own(path, origin).astype(wanted[path].dtype) for path, origin in names.items()}


def _stored(
  origin: str, spec: jax.ShapeDtypeStruct, found: tuple[int, ...] | None, special_ids: set[int]
) -> jax.ShapeDtypeStruct:
  """Returns `spec` without the rows of special ids that the source's table of shape `found`
  lacks.
  """
  added = range(found[0], spec.shape[0]) if origin in _TABLES and found else ()
  return (
    spec.update(shape=(found[0], *spec.shape[1:]))
    if added and special_ids.issuperset(added)
    else spec
  )


def _with_added_rows(table: jax.Array, spec: jax.ShapeDtypeStruct) -> jax.Array:
  """Extends the table to the length of `spec`; new rows are the mean of the others."""

  def lengthen(table):
    mean = jnp.mean(table, axis=0, keepdims=True, dtype=jnp.float32).astype(table.dtype)
    return jnp.concatenate([table, jnp.repeat(mean, spec.shape[0] - len(table), axis=0)])

  return jax.jit(lengthen, out_shardings=spec.sharding)(table)


def open_source(entry: str, stage: stages.Stage, workdir: Path) -> ParamSource:
  """Opens the source that an entry of `init_from` names: a finished stage, another stage folder, or
  an exported or imported model.
  """
  folder = workdir / entry if entry in stages.STAGES else storage.check_readable(entry)
  if entry in stages.STAGES and checkpoint.read_finished(folder) is None:
    raise errors.CheckpointError(
      f'stage `{stage.name}` starts from `{entry}`, but {workdir} has no finished checkpoint of '
      'it: '
      f'run `python -m launch.train --config=...:{entry} --workdir={workdir}` first.'
    )
  if storage.is_file(folder / WEIGHTS):
    return _safetensors(folder / WEIGHTS)
  if not storage.exists(folder / checkpoint.FOLDER):
    raise errors.CheckpointError(
      f'train.init_from names {entry!r}, which is neither a stage nor the folder of a trained '
      f'stage or exported model: use one of {", ".join(stages.STAGES)}, a folder, or {SCRATCH}.'
    )
  return ParamSource(
    str(folder),
    checkpoint.param_shapes(folder),
    lambda specs: checkpoint.load_params(folder, specs),
  )


def _safetensors(file: Path) -> ParamSource:
  """Opens the parameters of an exported or imported model folder."""
  tensors = tensor_files.open_tensors(file)

  def rows(paths: Iterable[str]) -> Iterator[tuple[str, int | None, np.ndarray]]:
    for path in paths:
      if len(tensors.shapes[path]) < 3:
        yield path, None, tensors[path]
      else:  # layer by layer
        yield from (
          (path, row, tensors.rows(path, row, row + 1)[0]) for row in range(tensors.shapes[path][0])
        )

  return ParamSource(
    str(file), tensors.shapes, lambda specs: dict(placing.place(rows(specs), specs))
  )


def _from_package(
  packaged_encoder: PackagedEncoder, size: str, specs: Specs
) -> dict[str, jax.Array]:
  """Loads the speech encoder that comes with a package."""
  flat = flatten({'whisper': packaged_encoder(size)})
  checkpoint.check_shapes(
    f'the packaged encoder {size!r}',
    {path: leaf.shape for path, leaf in flat.items()},
    {path: s.shape for path, s in specs.items()},
  )
  return dict(placing.place(((path, None, flat[path]) for path in specs), specs))


def _spelling(
  stage: stages.Stage, experiment: ExperimentConfig, workdir: Path
) -> list[ParamSource]:
  """The table of `unit_decoder.text_table` = `spelling`, for a stage that may begin with it."""
  cfg, path = experiment.model, f'{stages.UNIT_TEXT}/embedding'
  begins = any(origin == stages.TEXT_TABLE for _, origin in stage.copies)
  if cfg.unit_decoder.text_table != spelling.NAME or not (begins or cfg.adapter.spelled_ctc):
    return []
  shape = (cfg.llm.vocab_size, cfg.llm.hidden_size)

  def read(specs: Specs) -> dict[str, jax.Array]:
    known = tokenizer.precomputed_tokenizer(workdir / 'precomputed')
    table = spelling.table(tokenizer.pieces(known), cfg)
    return dict(placing.place(((path, None, table),), specs))

  return [ParamSource('how tokens are spelled', {path: shape}, read)]
