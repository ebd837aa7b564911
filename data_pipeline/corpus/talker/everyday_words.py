"""Word lists of the everyday questions: cells separated by `|` or by lines.

A cell is a word, or words, and where its plural is irregular `word/plural`.
"""

ANIMALS = """
dog | cat | horse | cow | sheep/sheep | goat | pig | rabbit | hamster | mouse/mice | rat
squirrel | hedgehog | fox | wolf/wolves | bear | lion | tiger | leopard | cheetah | elephant
giraffe | zebra | hippopotamus | rhinoceros | monkey | gorilla | chimpanzee | kangaroo | koala
panda | camel | donkey | deer/deer | moose/moose | bat | mole | beaver | otter | seal | whale
dolphin | shark | penguin | owl | eagle | hawk | falcon | crow | raven | sparrow | robin | swan
duck | goose/geese | chicken | turkey | peacock | parrot | flamingo | ostrich | stork | woodpecker
hummingbird | pigeon | seagull | snake | lizard | crocodile | turtle | tortoise | frog | toad
salamander | salmon/salmon | trout/trout | eel | goldfish/goldfish | jellyfish/jellyfish | octopus
squid | crab | lobster | snail | spider | scorpion | bee | wasp | ant | butterfly | moth | beetle
ladybug | grasshopper | dragonfly | mosquito | cricket | earthworm | badger | raccoon | skunk
weasel | buffalo | yak | llama | reindeer/reindeer | walrus | chameleon | sloth | lynx | jaguar
hyena
"""
PRODUCE = """
apple | pear | plum | peach | cherry | strawberry | raspberry | blueberry | grape | banana
orange | lemon | lime | mango | pineapple | melon | kiwi | fig | date | coconut | avocado | tomato
potato | carrot | onion | cucumber | pepper | pumpkin | eggplant | radish | beet | turnip | leek
cabbage | cauliflower | mushroom | bean | pea | lentil | chickpea | almond | walnut | hazelnut
peanut | olive | sweet potato | artichoke | zucchini | apricot | cranberry | pomegranate
grapefruit | blackberry
"""
DISHES = """
pancakes | scrambled eggs | an omelet | a fruit salad | a green salad | potato salad
chicken soup | tomato soup | onion soup | vegetable soup | pea soup | a beef stew | roast chicken
fried rice | mashed potatoes | baked potatoes | French fries | spaghetti | lasagna
macaroni and cheese | pizza | a cheese sandwich | a hamburger | tacos | a burrito | meatballs
fish and chips | grilled salmon | a vegetable curry | sushi | dumplings | noodle soup | a risotto
paella | hummus | guacamole | garlic bread | white bread | an apple pie | a chocolate cake
a cheesecake | a carrot cake | muffins | brownies | cookies | waffles | a fruit tart
rice pudding | ice cream | strawberry jam | popcorn | porridge | granola | yogurt | tomato sauce
gravy | mayonnaise | pesto | stuffed peppers | a pumpkin pie | cornbread | coleslaw | chili
a milkshake | gingerbread | apple sauce | bean soup
"""
DRINKS = """
green tea | black tea | coffee | hot chocolate | lemonade | orange juice | apple juice | iced tea
ginger tea | mint tea | tomato juice | soy milk | oat milk | carrot juice | cider
mineral water | coconut water | espresso | chamomile tea
"""
THINGS = """
hammer | screwdriver | saw | drill | wrench | ladder | nail | screw | rope | bucket | shovel
rake | wheelbarrow | lawn mower | broom | mop | vacuum cleaner | washing machine | dishwasher
iron | needle | sewing machine | pair of scissors/scissors | knife/knives | fork | spoon | plate
bowl | cup | kettle | teapot | frying pan | oven | toaster | blender | refrigerator | freezer
microwave | stove | corkscrew | cutting board | rolling pin | whisk | sieve | thermometer | clock
watch | alarm clock | calendar | compass | map | globe | telescope | microscope | magnifying glass
mirror | lamp | flashlight | candle | lantern | match | lighter | fireplace | radiator | fan
umbrella | raincoat | suitcase | backpack | wallet | purse | key | lock | door | window | curtain
carpet | pillow | blanket | mattress | sofa | armchair | table | desk | bookshelf/bookshelves
wardrobe | drawer | bathtub | shower | toothbrush | hairbrush | comb | razor | towel | sponge
soap dish | pencil | pen | eraser | ruler | notebook | stapler | envelope | stamp | printer
computer | keyboard | laptop | telephone | camera | radio | television | battery | light bulb
extension cord | bicycle | helmet | tent | sleeping bag | hammock | fishing rod | kite | balloon
doll | puzzle | chessboard | ball | trampoline | swing | skateboard | sled | snowboard | surfboard
canoe | paddle | anchor | lighthouse | bridge | tunnel | fence | gate | bell | flag | coin | crown
ring | necklace | vase | flowerpot | watering can | greenhouse | birdhouse | mailbox | elevator
escalator | crane | tractor | plow | windmill | water wheel | scarecrow | ax | bandage | crutch
wheelchair | stethoscope | pair of glasses/glasses | hearing aid | whistle
"""
JOBS = """
doctor | nurse | dentist | surgeon | pharmacist | veterinarian | teacher | professor | librarian
scientist | chemist | biologist | physicist | astronomer | geologist | historian | mathematician
engineer | architect | carpenter | plumber | electrician | bricklayer | painter | roofer | welder
mechanic | locksmith | blacksmith | tailor | shoemaker | jeweler | watchmaker | baker | butcher
cook | waiter | bartender | farmer | gardener | florist | fisherman/fishermen | shepherd
beekeeper | forester | miner | sailor | captain | pilot | flight attendant | astronaut
bus driver | taxi driver | truck driver | train conductor | mail carrier | firefighter
police officer | soldier | judge | lawyer | detective | politician | mayor | diplomat | translator
journalist | editor | writer | poet | photographer | film director | actor | dancer | singer
musician | composer | conductor | sculptor | graphic designer | fashion designer | programmer
accountant | banker | economist | secretary | receptionist | salesperson/salespeople | cashier
manager | real estate agent | insurance agent | barber | hairdresser | cleaner | janitor
babysitter | social worker | psychologist | coach | referee | lifeguard | personal trainer
tour guide | hotel manager | optician | paramedic | midwife/midwives
"""
HOBBIES = """
gardening | painting | drawing | knitting | sewing | pottery | photography | cooking | baking
fishing | hiking | camping | cycling | running | swimming | rock climbing | skiing | ice skating
surfing | sailing | rowing | dancing | singing | yoga | meditation | chess | bird watching
stargazing | reading | creative writing | journaling | collecting stamps | collecting coins
woodworking | origami | juggling | magic tricks | board games | crossword puzzles | video games
model trains | scuba diving | archery | horse riding | martial arts | weight lifting | calligraphy
making candles | making jewelry | beekeeping | brewing tea | learning languages | volunteering
acting | playing cards | skateboarding | kayaking | mushroom picking | geocaching
flower arranging | quilting | weaving | birdhouse building | genealogy | home brewing
table tennis | jogging | stand-up comedy
"""
TASKS = """
boil an egg | peel a mango | sharpen a knife | clean a frying pan | clean an oven | unclog a drain
fix a leaking faucet | change a light bulb | paint a room | hang a picture | put up a shelf
clean windows | wash a wool sweater | iron a shirt | fold a fitted sheet | remove a coffee stain
remove a wine stain | sew on a button | mend a hole in a sock | tie a tie | tie a bow | tie a knot
polish shoes | pack a suitcase | wrap a present | write a letter | write a thank you note
write a resume | write a poem | give a speech | tell a story | remember names
learn a poem by heart | learn a new language | learn to swim | learn to dance | learn to drive
learn to type faster | study for a test | read faster | take good notes | concentrate better
manage my time | make a budget | save money | open a bank account | pay off a debt
plan a vacation | find a cheap flight | rent an apartment | buy a used car | change a tire
jump start a car | wash a car | save fuel | ride a bicycle | repair a flat bicycle tire
read a map | use a compass | build a campfire | pitch a tent | build a birdhouse | build a snowman
fly a kite | plant a tree | grow tomatoes | start a vegetable garden
water plants during a vacation | make compost | keep slugs away | mow a lawn | prune roses
train a puppy | house train a dog | walk a dog | brush a cat | clean an aquarium | feed wild birds
keep mosquitoes away | get rid of ants | catch a mouse | fall asleep faster | wake up early
take a nap | relax after work | reduce stress | calm down | meditate | stop biting my nails
stop procrastinating | quit smoking | lose weight | gain muscle | stretch before a run
run a marathon | do a push-up | improve my posture | drink more water | eat more vegetables
cook rice | cook pasta | bake bread | roast vegetables | grill a steak | poach an egg
chop an onion without crying | peel garlic | keep bread fresh | store fresh herbs | freeze soup
defrost meat | make a salad dressing | set a table | plan a dinner party
make friends in a new city | start a conversation | apologize to a friend | say no politely
ask for a raise | prepare for a job interview | write an email to my boss
make a good first impression | handle criticism | work in a team | organize a meeting
clean my keyboard | back up my files | choose a strong password | free up space on my phone
take better photos | set up a printer | make a paper airplane | fold a paper crane | draw a face
draw a horse | play chess | play the guitar | sing better | whistle | juggle | shuffle cards
solve a puzzle | throw a ball | catch a fish | skip a stone | climb a rope | ice skate | ski
treat a sunburn | treat a bee sting | stop a nosebleed | stop hiccups | bandage a cut
help someone who faints | lower a fever | soothe a sore throat | protect my skin from the sun
take care of houseplants | clean a carpet | dust a room | organize a closet | get rid of clutter
make a bed | do laundry | dry clothes indoors | save electricity | save water | recycle paper
keep a house warm in winter | keep a room cool in summer | celebrate a birthday
entertain small children | put a baby to sleep | teach a child to read | help with homework
choose a gift | choose a book | choose a pet | find a lost key | open a jam jar | cut my own hair
"""
FEELINGS = """
sad | lonely | nervous | angry | bored | tired | stressed | worried | homesick | jealous
confused | disappointed | embarrassed | hopeless | overwhelmed | restless | guilty | shy | afraid
grumpy | frustrated | impatient | hurt | ashamed | discouraged | unmotivated | insecure | sleepy
anxious | heartbroken
"""
PEOPLE = """
mother | father | sister | brother | grandmother | grandfather | aunt | uncle | wife | husband
best friend | neighbor | boss | teacher | daughter | son | cousin | niece | nephew | coworker
roommate | girlfriend | boyfriend | godchild | mother-in-law
"""
OCCASIONS = 'birthday | wedding | graduation | Christmas | housewarming | farewell'
OTHERS = 'friend | sister | son | neighbor | coworker'
GENRES = """
mystery | romantic | historical | funny | scary | fantasy | science fiction | adventure | classic
sad | short | inspiring | educational | family | modern
"""
MEDIA = 'novel | movie | song | play | podcast | comic | board game | poem | documentary | cartoon'
AILMENTS = """
a headache | a cold | a cough | a sore throat | a fever | a stomach ache | a toothache | back pain
a stiff neck | a sunburn | a blister | a bruise | a mosquito bite | hay fever | a runny nose
hiccups | heartburn | an earache | dry skin | chapped lips | dandruff | tired eyes | cold feet
muscle cramps | sore muscles | a sprained ankle | seasickness | jet lag | insomnia | a nosebleed
a splinter | acne | indigestion | dizziness | the flu | snoring
"""
SPORTS = """
soccer | basketball | baseball | tennis | volleyball | handball | rugby | cricket | golf
badminton | table tennis | ice hockey | field hockey | water polo | American football | bowling
fencing | boxing | wrestling | judo | karate | gymnastics | rowing | swimming | diving | sailing
surfing | skiing | snowboarding | figure skating | speed skating | curling | cycling
marathon running | archery | weight lifting | rock climbing | squash | darts | billiards
"""
INSTRUMENTS = """
piano | guitar | violin | viola | cello | double bass | harp | flute | clarinet | oboe | bassoon
saxophone | trumpet | trombone | French horn | tuba | drum | xylophone | tambourine | triangle
accordion | harmonica | organ | banjo | mandolin | ukulele | recorder | bagpipe | harpsichord
lute
"""
BODY = """
heart | brain | liver | stomach | skin | nose | tongue | ear | eye | spine | knee | elbow
shoulder | wrist | ankle | hip | neck | throat | jaw | skull | thumb | heel | bladder | pancreas
spleen | appendix | eardrum | retina | esophagus | diaphragm
"""
INVENTIONS = """
telephone | light bulb | steam engine | printing press | airplane | automobile | bicycle
telegraph | radio | television | computer | Internet | camera | microscope | telescope
thermometer | barometer | refrigerator | microwave oven | washing machine | sewing machine
typewriter | dynamite | battery | zipper | safety pin | ballpoint pen | pencil | paper clip
can opener | elevator | escalator | parachute | hot air balloon | helicopter | submarine | rocket
satellite | laser | transistor | vaccine | penicillin | X-ray machine | stethoscope | anesthesia
wheel | compass | gunpowder | paper | clock | cotton gin | plow | windmill | lightning rod
vacuum cleaner | traffic light | barcode | credit card | phonograph
"""
PERSONS = """
Isaac Newton | Albert Einstein | Marie Curie | Charles Darwin | Galileo Galilei
Nicolaus Copernicus | Johannes Kepler | Leonardo da Vinci | Michelangelo | Rembrandt
Vincent van Gogh | Claude Monet | Pablo Picasso | Johann Sebastian Bach | Wolfgang Amadeus Mozart
Ludwig van Beethoven | Frederic Chopin | Franz Schubert | Antonio Vivaldi | Giuseppe Verdi
Richard Wagner | Peter Tchaikovsky | Johannes Brahms | William Shakespeare | Jane Austen
Charles Dickens | Mark Twain | Leo Tolstoy | Fyodor Dostoevsky | Victor Hugo | Jules Verne
Edgar Allan Poe | Emily Dickinson | Walt Whitman | Oscar Wilde | Homer | Virgil | Dante
Cervantes | Goethe | Voltaire | Rousseau | Descartes | Immanuel Kant | Plato | Socrates
Aristotle | Confucius | Buddha | Archimedes | Euclid | Pythagoras | Hippocrates | Cleopatra
Julius Caesar | Augustus | Nero | Alexander the Great | Hannibal | Genghis Khan | Marco Polo
Christopher Columbus | Ferdinand Magellan | Vasco da Gama | James Cook | Charlemagne | Joan of Arc
William the Conqueror | Elizabeth the First | Queen Victoria | Napoleon | Peter the Great
Catherine the Great | George Washington | Thomas Jefferson | Benjamin Franklin | Abraham Lincoln
Frederick Douglass | Harriet Tubman | Theodore Roosevelt | Franklin Roosevelt | Winston Churchill
Mahatma Gandhi | Nelson Mandela | Martin Luther King | Rosa Parks | Florence Nightingale
Clara Barton | Louis Pasteur | Robert Koch | Alexander Fleming | Gregor Mendel
Alexander von Humboldt | Carl Linnaeus | Michael Faraday | James Watt | Thomas Edison
Nikola Tesla | Alexander Graham Bell | Samuel Morse | Johannes Gutenberg | Karl Benz | Henry Ford
the Wright brothers | Amelia Earhart | Charles Lindbergh | Yuri Gagarin | Neil Armstrong
Roald Amundsen | Robert Scott | Edmund Hillary | Ada Lovelace | Charles Babbage | Alan Turing
Adam Smith | Karl Marx | Sigmund Freud | Anne Frank | Helen Keller | Robin Hood | King Arthur
Odysseus | Hercules | Martin Luther | Francis of Assisi | Moses
"""
PHENOMENA = """
rain | snow | hail | fog | dew | frost | wind | thunder | lightning | a rainbow | a tornado
a hurricane | an earthquake | a volcanic eruption | a tsunami | a flood | a drought | an avalanche
a landslide | the tides | ocean waves | the seasons | day and night | a solar eclipse
a lunar eclipse | the northern lights | shooting stars | the phases of the moon | gravity
magnetism | static electricity | rust | fire | echoes | shadows | hiccups | yawning | sneezing
dreams | goosebumps | a sandstorm | a heat wave | a mirage | hot springs | geysers | icebergs
coral reefs | caves | fossils | quicksand
"""
PLACES = """
the city | the countryside | the mountains | the forest | the park | the museum | the library
the garden | the kitchen | the living room | a small town | a hotel | an airport | a train station
a castle | the zoo | the swimming pool | the lake | the beach | a campsite
"""
WEATHERS = 'rainy | sunny | snowy | windy | foggy | hot | cold | cloudy | stormy'
SUBJECTS = """
mathematics | geometry | algebra | physics | chemistry | biology | geography | history
philosophy | psychology | economics | literature | grammar | spelling | art | music | drama
Latin | Spanish | French | German | Chinese | Japanese | astronomy | geology | engineering
medicine | law | politics | computer science | statistics | archaeology | ecology | nutrition
public speaking
"""
MATERIALS = """
wood | glass | paper | plastic | rubber | leather | wool | cotton | silk | linen | steel | bronze
brass | concrete | brick | clay | porcelain | sand | marble | granite | wax | soap | ink | paint
glue | salt | sugar | flour | vinegar | olive oil | butter | cheese | honey | chocolate
cardboard | nylon | charcoal
"""
PLANTS = """
rose | tulip | daffodil | sunflower | daisy | lily | orchid | violet | lavender | geranium
carnation | poppy | cactus | fern | ivy | bamboo | basil plant | mint plant | rosemary bush
parsley plant | thyme plant | tomato plant | bean plant | strawberry plant | blueberry bush
apple tree | cherry tree | lemon tree | olive tree | fig tree | oak tree | maple tree | birch tree
pine tree | willow tree | palm tree | magnolia | hydrangea | begonia | petunia | snowdrop | crocus
iris | peony | hibiscus | jasmine plant | aloe vera | rubber tree | bonsai tree | pumpkin plant
"""
WORDS = """
generous | honest | humble | stubborn | cautious | reliable | ambitious | patient | loyal | cruel
polite | rude | gentle | fierce | clumsy | elegant | ancient | modern | fragile | sturdy | vague
precise | obvious | rare | frequent | sudden | gradual | temporary | permanent | reluctant | eager
weary | cheerful | gloomy | serene | anxious | curious | ignorant | wise | foolish | brave | timid
bold | greedy | selfish | thrifty | wasteful | diligent | lazy | punctual | sincere | deceitful
arrogant | modest | witty | dull | brilliant | mysterious | ordinary | peculiar | hostile
friendly | neutral | urgent | trivial | vital | abundant | scarce | fertile | barren | humid
arid | steep | shallow | dense | hollow | smooth | jagged | flexible | rigid | transparent
opaque | fluent | mute | literate | courage | wisdom | justice | mercy | envy | gratitude
patience | loyalty | freedom | equality | tradition | culture | democracy | tyranny | revolution
treaty | alliance | colony | empire | republic | citizen | refugee | pilgrim | nomad | hermit
ancestor | heir | orphan | guardian | apprentice | expert | amateur | rival | ally | witness
victim | suspect | evidence | verdict | rumor | gossip | proverb | metaphor | irony | satire
fable | legend | myth | riddle | paradox | dilemma | compromise | sacrifice | ambition | failure
triumph | obstacle | opportunity | coincidence | destiny | habit | instinct | intuition | memory
imagination | nostalgia | melancholy | sympathy | empathy | harvest | famine | drought | plague
remedy | antidote | symptom | horizon | altitude | latitude | equator | hemisphere | orbit
galaxy | comet | meteor | glacier | peninsula | archipelago | delta | canyon | plateau | prairie
swamp | oasis | habitat | predator | prey | species | extinct | evolution | photosynthesis
hibernate | migrate | dissolve | evaporate | condense | expand | shrink | accelerate | hesitate
persuade | negotiate | exaggerate | imitate | improvise | hoard | squander | wander | linger
vanish | flourish
"""
TOPICS = """
the moon | the sun | the stars | the Milky Way | black holes | comets | Mars | Saturn | Jupiter
Venus | Mercury | Neptune | volcanoes | deserts | rain forests | oceans | rivers | glaciers
mountains | islands | the North Pole | the South Pole | the Great Wall of China | the pyramids
Stonehenge | the Eiffel Tower | the Colosseum | the Statue of Liberty | the Grand Canyon
Niagara Falls | the Amazon River | the Nile | the Sahara | the Alps | the Himalayas
the Roman Empire | ancient Greece | ancient Egypt | the Vikings | the Middle Ages | knights
the Renaissance | the Industrial Revolution | the French Revolution | the American Revolution
the Civil War | the Silk Road | the moon landing | the Olympic Games | democracy | money | banks
taxes | trade | farming | electricity | solar power | wind power | nuclear power | steam power
atoms | molecules | light | sound | heat | energy | time | numbers | the number zero
the alphabet | languages | writing | books | newspapers | letters | poetry | fairy tales | theater
opera | ballet | jazz | folk music | painting | sculpture | architecture | cathedrals | castles
bridges | trains | ships | airplanes | robots | computers | the Internet | artificial intelligence
genes | cells | bacteria | viruses | vitamins | proteins | blood | bones | muscles | sleep
dreams | memory | laughter | friendship | love | happiness | family | childhood | old age | school
work | money problems | free time | sports | games | holidays | Christmas | Easter | Halloween
Thanksgiving | birthdays | weddings | spring | summer | autumn | winter | breakfast | bread | rice
cheese | chocolate | coffee | tea | salt | spices | honey | vegetables | fruit | pets | dinosaurs
mammoths | insects | birds | whales | sharks | wolves | bees | trees | flowers | mushrooms
"""
VEHICLES = """
car | bus | truck | motorcycle | scooter | tram | train | subway | ferry | sailboat | rowboat
canoe | airplane | helicopter | glider | hot air balloon | fire engine | ambulance | tractor
sled
"""
BOOKS = """
Hamlet | Macbeth | Romeo and Juliet | King Lear | Othello | the Odyssey | the Iliad | Don Quixote
Robinson Crusoe | Gulliver's Travels | Pride and Prejudice | Sense and Sensibility | Emma
Jane Eyre | Wuthering Heights | Frankenstein | Dracula | Oliver Twist | David Copperfield
A Christmas Carol | Great Expectations | A Tale of Two Cities | Moby Dick | The Scarlet Letter
Little Women | Tom Sawyer | Huckleberry Finn | Alice in Wonderland | Treasure Island
The Jungle Book | The Time Machine | The War of the Worlds | Around the World in Eighty Days
The Three Musketeers | Les Miserables | War and Peace | Anna Karenina | Crime and Punishment
Faust | The Divine Comedy | Peter Pan | The Wizard of Oz | Black Beauty | Heidi | Pinocchio
Sleeping Beauty | Cinderella | Snow White | Hansel and Gretel | Little Red Riding Hood
The Ugly Duckling | The Little Mermaid | Rapunzel
"""
