"""Words that sentences of the tests are made of."""

COLOURS = tuple(
  'red green blue black white yellow orange purple brown pink gray violet golden silver'.split()
)
PLACES = tuple(
  'house river mountain garden school market bridge island castle valley harbor forest village '
  'museum'.split()
)
