"""What messages between chips cost, against counts by hand.

How they are read from a program's text: test_compile_check.py.
"""

import types

import numpy as np
import pytest

from echox_jax.compiled import collectives
from echox_jax.parallel import chips

V5E, V5P = chips.find('TPU v5e'), chips.find('TPU v5p')
LINK = 50e9  # of v5e, one way


def devices(*shape, slices=1):
  return [
    types.SimpleNamespace(coords=coords, slice_index=i)
    for i in range(slices)
    for coords in np.ndindex(*shape)
  ]


def one(kind, groups=None, size=10**9):
  return collectives.Collective(kind, size, 1, None if groups is None else np.asarray(groups), '')


@pytest.mark.parametrize(
  'kind,shape,links',
  [
    ('all-gather', (4, 4), 2),
    ('all-gather', (16, 16), 4),
    ('all-gather', (16, 1), 2),
    ('reduce-scatter', (8, 8), 2),
    ('all-gather', (8, 16), 3),
  ],
)
def test_gathers_take_all_links_of_the_axes_that_a_group_spans(kind, shape, links):
  n = shape[0] * shape[1]
  seconds = collectives.seconds(one(kind), devices(*shape), V5E)
  assert seconds == (pytest.approx(1e9 * (n - 1) / n / (links * LINK)), 0)


def test_an_all_reduce_takes_twice_a_gather():
  gather, reduce = (
    collectives.seconds(one(kind), devices(4, 4), V5E)[0] for kind in ('all-gather', 'all-reduce')
  )
  assert reduce == pytest.approx(2 * gather)


def test_groups_that_lie_between_one_another_share_the_links():
  row = devices(1, 16)
  apart = collectives.seconds(one('all-gather', [range(8), range(8, 16)]), row, V5E)[0]
  between = collectives.seconds(one('all-gather', [range(0, 16, 2), range(1, 16, 2)]), row, V5E)[0]
  assert apart == pytest.approx(1e9 * 7 / 8 / LINK) and between == pytest.approx(2 * apart)


def test_three_axes_are_rings_together_or_not_at_all():
  cube, flat = (
    collectives.seconds(one('all-gather'), devices(*shape), V5P)[0]
    for shape in ((4, 4, 4), (2, 4, 4))
  )
  assert cube == pytest.approx(1e9 * 63 / 64 / (6 * 100e9))
  assert flat == pytest.approx(1e9 * 31 / 32 / (3 * 100e9))


@pytest.mark.parametrize(
  'shape, share', [((16, 16), 16 / (4 * 2)), ((4, 4), 4 / 4), ((1, 8), 8 / 4)]
)
def test_an_all_to_all_is_bound_by_the_middle_of_the_longest_axis(shape, share):
  seconds = collectives.seconds(one('all-to-all'), devices(*shape), V5E)[0]
  assert seconds == pytest.approx(share * 1e9 / LINK)


def test_what_is_passed_on_takes_the_busiest_link():
  row = devices(1, 4)
  permute = lambda pairs, where: collectives.seconds(one('collective-permute', pairs), where, V5E)
  neighbours = permute([[0, 1], [1, 2], [2, 3], [3, 0]], row)
  assert neighbours == (pytest.approx(1e9 / LINK), 0)  # the last goes back the other way
  crossing = permute([[0, 2], [1, 3], [2, 2]], row)
  assert crossing == (pytest.approx(2 * 1e9 / LINK), 0)  # both pass from 1 to 2
  ring = permute([[i, (i + 15) % 16] for i in range(16)], devices(1, 16))
  assert ring == (pytest.approx(1e9 / LINK), 0)


def test_what_crosses_slices_takes_the_network_between_them():
  across = [types.SimpleNamespace(coords=(0, 0), slice_index=i) for i in range(2)]
  network = (0, pytest.approx(1e9 / 3.125e9))
  assert collectives.seconds(one('all-reduce', [[0, 1]]), across, V5E) == network
  assert collectives.seconds(one('send'), devices(4, 4, slices=2), V5E) == network


def test_only_a_chips_share_crosses_slices():
  both = devices(4, 4, slices=2)
  inside, across = collectives.received(one('all-reduce'), both)
  assert inside == pytest.approx(2e9 * 15 / 16) and across == pytest.approx(1e9 / 16)
  exchanged = collectives.received(one('all-to-all'), both)
  assert exchanged == (pytest.approx(0.5e9 * 15 / 16), pytest.approx(0.5e9))
  inside, across = collectives.seconds(one('all-reduce'), both, V5E)
  assert inside == pytest.approx(2e9 * 15 / 16 / (2 * LINK))
  assert across == pytest.approx(1e9 / 16 / 3.125e9)
