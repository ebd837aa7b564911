"""Word tables of the facts: one row per line, cells separated by `|`."""

DAYS = ('Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday')
MONTHS = (
  'January',
  'February',
  'March',
  'April',
  'May',
  'June',
  'July',
  'August',
  'September',
  'October',
  'November',
  'December',
)

# country | capital | region
CAPITALS = """
France | Paris | Europe
Germany | Berlin | Europe
Italy | Rome | Europe
Japan | Tokyo | Asia
Spain | Madrid | Europe
Portugal | Lisbon | Europe
England | London | Europe
Ireland | Dublin | Europe
Scotland | Edinburgh | Europe
China | Beijing | Asia
Norway | Oslo | Europe
Sweden | Stockholm | Europe
Egypt | Cairo | Africa
Denmark | Copenhagen | Europe
Kenya | Nairobi | Africa
Finland | Helsinki | Europe
Poland | Warsaw | Europe
Canada | Ottawa | North America
Austria | Vienna | Europe
Cuba | Havana | the Caribbean
Hungary | Budapest | Europe
Greece | Athens | Europe
Peru | Lima | South America
Turkey | Ankara | Asia
Thailand | Bangkok | Asia
Russia | Moscow | Europe
Belgium | Brussels | Europe
the Netherlands | Amsterdam | Europe
Iran | Tehran | Asia
Slovakia | Bratislava | Europe
Croatia | Zagreb | Europe
Nigeria | Abuja | Africa
Serbia | Belgrade | Europe
Australia | Canberra | Oceania
Bulgaria | Sofia | Europe
Romania | Bucharest | Europe
Vietnam | Hanoi | Asia
Chile | Santiago | South America
Latvia | Riga | Europe
Lithuania | Vilnius | Europe
Morocco | Rabat | Africa
Estonia | Tallinn | Europe
Indonesia | Jakarta | Asia
Cyprus | Nicosia | Europe
North Korea | Pyongyang | Asia
Mexico | Mexico City | North America
India | New Delhi | Asia
Pakistan | Islamabad | Asia
Nepal | Kathmandu | Asia
Malaysia | Kuala Lumpur | Asia
the Philippines | Manila | Asia
Iraq | Baghdad | Asia
Syria | Damascus | Asia
Taiwan | Taipei | Asia
Lebanon | Beirut | Asia
Saudi Arabia | Riyadh | Asia
Qatar | Doha | Asia
Kuwait | Kuwait City | Asia
Uganda | Kampala | Africa
Afghanistan | Kabul | Asia
Jamaica | Kingston | the Caribbean
Oman | Muscat | Asia
Tunisia | Tunis | Africa
New Zealand | Wellington | Oceania
Algeria | Algiers | Africa
Ethiopia | Addis Ababa | Africa
Senegal | Dakar | Africa
Angola | Luanda | Africa
Venezuela | Caracas | South America
Uruguay | Montevideo | South America
Panama | Panama City | Central America
Costa Rica | San Jose | Central America
El Salvador | San Salvador | Central America
Guatemala | Guatemala City | Central America
"""

# state | capital
STATE_CAPITALS = """
California | Sacramento
Texas | Austin
Florida | Tallahassee
Arizona | Phoenix
Colorado | Denver
Massachusetts | Boston
Hawaii | Honolulu
Ohio | Columbus
Indiana | Indianapolis
Tennessee | Nashville
Arkansas | Little Rock
Utah | Salt Lake City
Wisconsin | Madison
Nebraska | Lincoln
Virginia | Richmond
New York | Albany
Oregon | Salem
Nevada | Carson City
Oklahoma | Oklahoma City
Kansas | Topeka
Missouri | Jefferson City
Iowa | Des Moines
Louisiana | Baton Rouge
Mississippi | Jackson
Alabama | Montgomery
Illinois | Springfield
Idaho | Boise
Wyoming | Cheyenne
Vermont | Montpelier
Delaware | Dover
Rhode Island | Providence
Connecticut | Hartford
New Mexico | Santa Fe
Michigan | Lansing
Pennsylvania | Harrisburg
New Jersey | Trenton
Maryland | Annapolis
Maine | Augusta
South Carolina | Columbia
North Carolina | Raleigh
West Virginia | Charleston
"""

# word | opposite
OPPOSITES = """
big | small
tall | short
fast | slow
happy | sad
young | old
up | down
left | right
open | closed
empty | full
wet | dry
light | dark
early | late
hard | soft
loud | quiet
clean | dirty
good | bad
true | false
north | south
east | west
first | last
push | pull
love | hate
black | white
inside | outside
above | below
before | after
always | never
thick | thin
deep | shallow
wide | narrow
rough | smooth
sharp | dull
cheap | expensive
sweet | bitter
summer | winter
friend | enemy
laugh | cry
remember | forget
safe | dangerous
warm | cool
near | far
inner | outer
arrival | departure
victory | defeat
"""

# atomic number | element | kind, where the answer names it
ELEMENTS = """
1 | hydrogen | gas
2 | helium | gas
3 | lithium | metal
5 | boron |
6 | carbon |
7 | nitrogen | gas
8 | oxygen | gas
9 | fluorine |
10 | neon | gas
11 | sodium | metal
12 | magnesium |
13 | aluminum |
14 | silicon |
15 | phosphorus |
16 | sulfur |
17 | chlorine | gas
18 | argon |
19 | potassium |
20 | calcium | metal
21 | scandium |
22 | titanium | metal
24 | chromium |
25 | manganese |
26 | iron | metal
27 | cobalt |
28 | nickel |
29 | copper | metal
30 | zinc | metal
31 | gallium |
32 | germanium |
33 | arsenic |
34 | selenium |
35 | bromine |
36 | krypton | gas
47 | silver | metal
53 | iodine |
78 | platinum | metal
79 | gold | metal
80 | mercury |
92 | uranium | metal
"""

# animal | young
BABY_ANIMALS = """
dog | puppy
cat | kitten
cow | calf
horse | foal
sheep | lamb
goat | kid
pig | piglet
duck | duckling
lion | cub
tiger | cub
bear | cub
fox | cub
elephant | calf
whale | calf
kangaroo | joey
frog | tadpole
deer | fawn
"""

# alternative spellings that a listener may write
OTHER_SPELLINGS = {
  'San Jose': ('San José',),
  'aluminum': ('aluminium',),
  'sulfur': ('sulphur',),
  'fawn': ('faun',),
}
