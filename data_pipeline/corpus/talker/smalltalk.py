"""Small talk and everyday reasoning: questions that no list of words makes. Those of one group mean
the same.
"""

_LINES = """
How are you? | How are you today? | How are you doing? | How do you feel today?
Hello. | Hi there. | Good day. | Hey.
Good morning. | Good morning to you.
Good evening. | Good evening to you.
Good night. | I am going to bed now.
What is your name? | Who are you? | Please tell me your name.
How old are you? | When were you made?
Where do you live? | Where are you?
Are you a human? | Are you a robot? | Are you a real person?
What can you do? | How can you help me? | What are you good at?
Can you hear me? | Do you hear me well?
Can you understand me? | Do you understand what I say?
Can you help me? | I need your help. | Could you help me please?
Thank you. | Thank you very much. | Thanks a lot.
Goodbye. | See you tomorrow. | I have to go now.
I am sorry. | Please forgive me.
What do you like? | What do you like to do?
What is your favorite color? | Which color do you like best?
What is your favorite food? | What do you like to eat?
What is your favorite animal? | Which animal do you like best?
What is your favorite book? | Which book do you like best?
What is your favorite song? | What music do you like?
Do you have friends? | Do you have a family?
Are you happy? | Are you ever sad?
Do you ever sleep? | Do you get tired?
Do you dream? | What do you dream about?
Can you sing? | Sing me a song.
Can you dance? | Do you like to dance?
Can you cook? | Do you like to cook?
Tell me a joke. | Do you know a joke? | Make me laugh.
Tell me a story. | Tell me a very short story.
Tell me something interesting. | Tell me something that I do not know.
Tell me a riddle. | Do you know a riddle?
Say something nice. | Give me a compliment. | Cheer me up.
I am bored. | What can I do when I am bored?
I cannot sleep. | What can I do when I cannot sleep?
I am hungry. | What should I eat?
I am thirsty. | What should I drink?
I am cold. | How can I get warm?
I am tired. | How can I stay awake?
I am lost. | What should I do when I am lost?
I lost my phone. | What should I do when I lose my phone?
I forgot my password. | What should I do when I forget my password?
It is raining. | What can I do on a rainy day?
It is my birthday today. | How should I celebrate my birthday?
I got a new job. | I start a new job tomorrow.
I passed my exam. | I have an exam tomorrow.
I have a secret. | Can you keep a secret?
What should I cook tonight? | What can I make for dinner?
What should I have for breakfast? | What is a good breakfast?
What should I wear today? | Help me choose my clothes.
What should I do this weekend? | Do you have an idea for the weekend?
What is the meaning of life? | Why are we here?
What is love? | How do I know that I am in love?
What is happiness? | How can I be happy?
What is time? | Can you explain time?
Why is the sky blue? | What makes the sky blue?
Why is the sea salty? | What makes the sea salty?
Why is the grass green? | What makes grass green?
Why do leaves change their color in autumn? | What happens to leaves in autumn?
Why do birds fly south? | Where do birds go in winter?
Why do cats purr? | What does it mean when a cat purrs?
Why do dogs bark? | What does it mean when a dog barks?
Why do we sleep? | What happens while we sleep?
Why do we dream? | Where do dreams come from?
Why do we cry? | What are tears good for?
Why do we laugh? | What is laughing good for?
Why do we yawn? | Why is yawning catching?
Why do we get old? | What happens when we get old?
Why do we need water? | What does water do for the body?
Why do we need sleep? | How much sleep do I need?
Why do we have two eyes? | What are two eyes good for?
Why does ice float? | Why does ice swim on water?
Why does the moon change its shape? | What are the phases of the moon?
Why is it colder on a mountain? | Why is the air thin on a mountain?
Why is it dark at night? | Where does the sun go at night?
Why do stars twinkle? | What makes stars twinkle?
Why do airplanes fly? | How can an airplane stay in the air?
Why do ships float? | How can a ship made of steel float?
Why do onions make me cry? | What is it in onions that makes us cry?
Why does bread rise? | What does yeast do?
Why does milk turn sour? | How can I tell that milk is sour?
Why do bees dance? | How do bees talk to one another?
Why are flamingos pink? | What makes flamingos pink?
Why do zebras have stripes? | What are the stripes of a zebra good for?
Why do people lie? | Is it ever right to lie?
Why do people fight? | How can a fight be ended?
Why is money important? | Can money make people happy?
Why should I exercise? | How often should I exercise?
Why should I read books? | What is reading good for?
Why should I vote? | What happens in an election?
What is the fastest animal? | What is the slowest animal?
What is the hardest stone? | Which stone is the hardest one?
What is the longest river in the world? | Which river is the longest?
What is the biggest desert? | Which desert is the largest one?
What is the smallest country? | Which country is the smallest one?
How far away is the moon? | How long does it take to fly to the moon?
How far away is the sun? | How long does the light of the sun take to reach us?
How hot is the sun? | What is the sun made of?
How old is the Earth? | How was the Earth made?
How many planets are there? | Name the planets of our solar system.
How many continents are there? | Name the continents.
How many oceans are there? | Name the oceans.
How many bones are in the human body? | How many bones do I have?
How many teeth does a grown person have? | How many teeth should I have?
How does a vaccine work? | What happens after a vaccination?
How does a magnet work? | What do magnets stick to?
How does a mirror work? | What is behind the glass of a mirror?
How does a bank work? | What does a bank do with my money?
How does a plant drink? | How does water get into a leaf?
How does a bird fly? | What keeps a bird in the air?
How does a fish breathe? | What are gills?
How does a spider make its web? | What is a spider web made of?
How do I spell necessary? | Spell the word necessary.
How do I spell beautiful? | Spell the word beautiful.
Is a tomato a fruit? | Is a tomato a fruit or a vegetable?
Is a whale a fish? | Is a dolphin a fish?
Is a spider an insect? | Is a bat a bird?
Is there life on Mars? | Is there life on other planets?
Is coffee bad for me? | How much coffee is too much?
Is chocolate bad for dogs? | What should dogs never eat?
What comes after winter? | What comes before summer?
What do I need for a picnic? | What should I take to a picnic?
What do I need for a long walk? | What should I take on a hike?
What is a good name for a cat? | How should I call my cat?
What is a good name for a dog? | How should I call my dog?
What is a good present for a child? | What do children like to get?
What is the best season? | Which season do you like best?
What is the best time to get up? | When should I get up?
What is the difference between weather and climate? | Is weather the same as climate?
What is the difference between a lake and a sea? | Is a sea bigger than a lake?
Do you believe in ghosts? | Are there ghosts?
Do plants feel pain? | Can plants feel anything?
Do fish sleep? | How do fish sleep?
Can penguins fly? | Why can penguins not fly?
Can you count to ten? | Count to ten.
Can you say the alphabet? | Say the first five letters of the alphabet.
Please repeat that. | Say that again, please.
Please speak more slowly. | Can you speak slower?
Are you sure? | How do you know that?
You are funny. | You are very nice.
I like you. | I like to talk to you.
I do not understand. | Can you explain that again?
"""

GROUPS = tuple(
  tuple(text.strip() for text in line.split('|')) for line in _LINES.strip().splitlines()
)
