"""Extra sentences for the answer voice: varied sounds to train k-means, the unit language and the
vocoder.

They combine word lists with fixed strides, so that every list is used evenly and no two sentences
are the same.
"""

import itertools

COUNT = 360

_PEOPLE = """
the old farmer | my younger sister | a tired doctor | the school teacher | our new neighbor
the village baker | a brave sailor
the tall policeman | her favorite uncle | the young painter | a curious child | the hotel manager
their good friend
the busy gardener | a clever student | the quiet librarian | my grandfather | the bus driver
a famous singer | the royal guard
the little girl | an honest judge | the football coach | your cousin George
"""
_PAST = """
found | carried | bought | sold | painted | watched | described | cleaned | repaired | borrowed
dropped | wrapped | measured
noticed | enjoyed | brought | hid | chose | photographed | remembered | fetched | polished
"""
_THINGS = """
a heavy wooden box | the yellow umbrella | three fresh oranges | an ancient map
the broken window | a bowl of hot soup | two silver coins
the garden fence | a pair of leather shoes | the orange kite | a very large fish
some strange music | the missing key | a thick blue book
several green bottles | the loudest clock | a basket of cherries | the church bell
five small pictures | a jar of ginger
the rough stone wall | an empty glass | a dozen eggs | the purple curtain | a piece of cheese
the judge's chair | a long white feather
"""
_PLACES = """
near the harbor | behind the old church | in the kitchen | at the railway station
under the bridge | beside the river | on the roof
in a dark forest | outside the museum | across the valley | in the busy market
above the workshop | along the beach
through the tunnel | next to the school | inside the castle | by the frozen lake
"""
_TIMES = """
yesterday morning | just before noon | on a rainy evening | early in the spring | last weekend
after a long journey | in the middle of the night
during the storm | before the show | in late autumn | shortly after lunch | while it was snowing
at half past nine
"""
_NATURE = """
the wind | a thin fog | the warm sun | heavy rain | a gentle breeze | the thunder | fresh snow
the moonlight | a thick cloud
the evening shadow | the cold water
"""
_MOVES = """
moved slowly | came quickly | rose quietly | drifted away | spread further | went by
grew stronger | fell gently | passed over us
returned again | reached us early | lasted for hours | vanished
"""
_QUALITIES = """
cheerful | nervous | gentle | honest | hungry | proud | quiet | rather shy | very strong
a bit strange | quite thirsty | famous
always late | truly kind | too noisy | pale and thin | usually right | zealous | ready to leave
"""
_REASONS = """
the road was closed | nobody had called | the game was over | the judge said yes
the fire had gone out | there was plenty of bread
the ship had arrived | the boys were joking | we found the treasure | it was her birthday
the boat began to shake | the choir sang well
the price was too high | my watch had stopped | they voted against it
"""
_NUMBERS = """
two | three | four | five | six | seven | eight | nine | ten | eleven | twelve | thirteen
fourteen | fifteen | sixteen | seventeen
eighteen | nineteen | twenty
"""
_PLURALS = """
horses | bridges | children | visitors | boxes | letters | engines | apples | knives | matches
roses | soldiers | mountains | wolves
teachers | islands | questions | gloves | journeys | churches
"""
_WISHES = """
to visit the mountains | to learn the violin | to buy a cheaper car | to grow fresh vegetables
to watch the sunrise | to join the choir
to swim across the bay | to open a little shop | to finish the puzzle | to choose a better prize
to go fishing with us
to read about history | to fly a yellow plane | to sleep for an hour | to think about the future
to measure the garden
"""


def extra_sentences(count: int = COUNT) -> tuple[str, ...]:
  """The first `count` sentences of a fixed order, 7 to 15 words each."""
  # short lists repeat
  found = dict.fromkeys(itertools.islice(map(_sentence, itertools.count()), 4 * count))
  return tuple(found)[:count]


def _sentence(i: int) -> str:
  form, n = i % 8, i // 8  # every form walks through its lists with its own strides
  person, other = _pick(_PEOPLE, 5 * n + 3 * form), _pick(_PEOPLE, 7 * n + 5 * form + 11)
  thing, place, time = (
    _pick(_THINGS, 4 * n + 7 * form),
    _pick(_PLACES, 3 * n + 2 * form),
    _pick(_TIMES, 5 * n + 4 * form),
  )
  past, reason, wish = (
    _pick(_PAST, 3 * n + 5 * form),
    _pick(_REASONS, 4 * n + form),
    _pick(_WISHES, 3 * n + form),
  )
  quality, many = _pick(_QUALITIES, 3 * n + 4 * form), _pick(_PLURALS, 3 * n + form)
  number, nature, move = (
    _pick(_NUMBERS, 7 * n + form),
    _pick(_NATURE, 3 * n + form),
    _pick(_MOVES, 5 * n + form),
  )
  text = (
    f'{person} {past} {thing} {place}',
    f'{time}, {person} {past} {thing}',
    f'{nature} {move} {place} {time}',
    f'{person} seemed {quality} because {reason}',
    f'there were {number} {many} {place} {time}',
    f'{person} always wanted {wish}',
    f'do you know why {person} {past} {thing}',
    f'when {reason}, {person} and {other} went home',
  )[form]
  return text[0].upper() + text[1:] + ('?' if form == 6 else '.')


def _pick(table: str, index: int) -> str:
  words = [word.strip() for line in table.strip().splitlines() for word in line.split('|')]
  return words[index % len(words)]
