"""The state of a training run: one pytree, created directly on its shardings."""

from collections.abc import Iterable

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import optax

from echox_jax import errors
from echox_jax.models import params as params_lib
from echox_jax.models.trees import Tree, flatten, merge, unflatten
from echox_jax.parallel import sharding
from echox_jax.training import init_from, keys, optimizer, stages
from echox_jax.training.experiment import ExperimentConfig

FROZEN_DTYPES = ('float32', 'bfloat16')


@struct.dataclass
class TrainState:
  """The state that a step reads and writes.

  Attributes:
    step: int32 scalar, steps done.
    trainable: dict of groups with only the trained leaves.
    frozen: dict of groups with the frozen leaves, in `train.frozen_dtype`.
    opt_state: optimizer name -> optimizer state of the trained leaves, float32 like them (see
      `by_optimizer`).
  """

  step: jax.Array
  trainable: Tree
  frozen: Tree
  opt_state: Tree

  def params(self) -> Tree:
    """Returns a dict of whole groups."""
    return merge(self.trainable, self.frozen)


def split(stage: stages.Stage, params: Tree, only: tuple[str, ...] = ()) -> tuple[Tree, Tree]:
  """Splits the parameters into (trainable, frozen) by the stage's patterns, or by `train.only`."""
  flat = flatten(params)
  chosen = stages.trainable_paths(stage, flat, only)
  return (
    unflatten({p: v for p, v in flat.items() if p in chosen}),
    unflatten({p: v for p, v in flat.items() if p not in chosen}),
  )


def by_optimizer(stage: stages.Stage, trainable: Tree) -> dict[str, Tree]:
  """Returns the trained leaves by optimizer: one optimizer for all, or one per group if groups are
  trained against each other.
  """
  return {name: trainable[name] for name in stage.optimizers} or {'model': trainable}


def init_params(key: jax.Array, experiment: ExperimentConfig, groups: Iterable[str]) -> Tree:
  """Initialises boxed parameters of `groups` with the job's sizes."""
  return params_lib.init_groups(key, experiment.model, groups, experiment.train.discriminators)


def abstract_params(experiment: ExperimentConfig, groups: Iterable[str], mesh: Mesh) -> Tree:
  """Returns shapes and shardings of the parameters of `groups`, without computing anything."""
  sizes = experiment.train.discriminators
  return params_lib.abstract_params(experiment.model, groups, mesh, sizes)


def abstract_state(stage: stages.Stage, experiment: ExperimentConfig, mesh: Mesh) -> TrainState:
  """Returns shapes and shardings of the whole state.

  Raises:
    ConfigError: the mesh does not fit the parameters, or `train.frozen_dtype` is unknown.
  """
  dtype = experiment.train.frozen_dtype
  if dtype not in FROZEN_DTYPES:
    raise errors.ConfigError(
      f'train.frozen_dtype is {dtype!r}: use one of {", ".join(FROZEN_DTYPES)}.'
    )
  abstract = abstract_params(experiment, stage.groups_for(experiment), mesh)
  trainable, frozen = split(stage, abstract, experiment.train.only)
  frozen = jax.tree.map(lambda leaf: leaf.update(dtype=dtype), frozen)
  tx = optimizer.make_optimizer(experiment.train.optimizer, experiment.train.steps)
  replicated = NamedSharding(mesh, PartitionSpec())

  def is_masked(leaf):  # Muon leaves arrays to Adam, and the other way round
    return isinstance(leaf, optax.MaskedNode)

  def moment(leaf, param):
    if is_masked(leaf):
      return leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=param.sharding)

  def opt_state(tree):
    return optax.tree_map_params(
      tx,
      moment,
      jax.eval_shape(tx.init, tree),
      tree,
      is_leaf=is_masked,
      transform_non_params=lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=replicated
      ),
    )

  return TrainState(
    jax.ShapeDtypeStruct((), 'int32', sharding=replicated),
    trainable,
    frozen,
    {name: opt_state(tree) for name, tree in by_optimizer(stage, trainable).items()},
  )


def create_state(
  stage: stages.Stage,
  experiment: ExperimentConfig,
  mesh: Mesh,
  sources: list[init_from.ParamSource] | None,
  packaged_encoder: init_from.PackagedEncoder | None = None,
) -> TrainState:
  """Creates the state before the first step, directly on its shardings: parameters of the sources
  (see `init_from`), copies and fresh values.

  Raises:
    CheckpointError: a source is damaged, has another config, or lacks a group that the stage must
      inherit.
  """
  abstract = abstract_state(stage, experiment, mesh)
  wanted = flatten(abstract.params())
  loaded = init_from.load_initial(stage, experiment, sources, wanted, packaged_encoder)

  def fresh(key):
    params = sharding.unbox(init_params(key, experiment, stage.groups_for(experiment)))
    return {
      path: leaf.astype(wanted[path].dtype)
      for path, leaf in flatten(params).items()
      if path not in loaded
    }

  shardings = {path: leaf.sharding for path, leaf in wanted.items() if path not in loaded}
  made = (
    jax.jit(fresh, out_shardings=shardings)(keys.init_key(experiment.seed)) if shardings else {}
  )
  trainable, frozen = split(stage, unflatten(loaded | made), experiment.train.only)
  tx = optimizer.make_optimizer(experiment.train.optimizer, experiment.train.steps)
  rest = jax.jit(
    lambda tree: (
      jnp.zeros((), 'int32'),
      {name: tx.init(t) for name, t in by_optimizer(stage, tree).items()},
    ),
    out_shardings=jax.tree.map(lambda leaf: leaf.sharding, (abstract.step, abstract.opt_state)),
  )
  step, opt_state = rest(trainable)
  return TrainState(step, trainable, frozen, opt_state)
