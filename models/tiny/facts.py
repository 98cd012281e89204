"""What the tiny model is meant to know: plain lists, no logic. `tasks.py` turns them into dialogues."""

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "England": "London", "Ireland": "Dublin", "Greece": "Athens", "Austria": "Vienna", "Poland": "Warsaw",
    "Sweden": "Stockholm", "Norway": "Oslo", "Denmark": "Copenhagen", "Finland": "Helsinki", "Russia": "Moscow",
    "Hungary": "Budapest", "Belgium": "Brussels", "Turkey": "Ankara", "Egypt": "Cairo", "Kenya": "Nairobi",
    "Japan": "Tokyo", "China": "Beijing", "India": "New Delhi", "Thailand": "Bangkok", "Cuba": "Havana",
    "Canada": "Ottawa", "Mexico": "Mexico City", "Peru": "Lima", "Brazil": "Brasília", "Australia": "Canberra",
}
CAPITAL_PHRASES = [
    "What is the capital of {k}?", "What's the capital of {k}?", "Which city is the capital of {k}?",
    "Name the capital of {k}.", "Tell me the capital of {k}.", "Capital of {k}?", "What is the capital city of {k}?",
    "Do you know the capital of {k}?",
]
LANGUAGES = {
    "France": "French", "Germany": "German", "Italy": "Italian", "Spain": "Spanish", "Portugal": "Portuguese",
    "Greece": "Greek", "Poland": "Polish", "Russia": "Russian", "Japan": "Japanese", "China": "Chinese",
    "Brazil": "Portuguese", "Mexico": "Spanish", "Turkey": "Turkish", "Egypt": "Arabic",
}
LANGUAGE_PHRASES = [
    "What language do people speak in {k}?", "Which language is spoken in {k}?", "What is the language of {k}?",
    "Tell me the language of {k}.", "What do people speak in {k}?",
]
SOUNDS = {
    "dog": "woof", "cat": "meow", "cow": "moo", "duck": "quack", "sheep": "baa", "pig": "oink", "lion": "roar",
    "frog": "ribbit", "bee": "buzz", "owl": "hoot",
}
SOUND_PHRASES = [
    "What sound does a {k} make?", "What does a {k} say?", "Which sound does a {k} make?",
    "Tell me the sound of a {k}.", "How does a {k} sound?",
]
COLORS = {
    "the sky": "blue", "grass": "green", "snow": "white", "the sun": "yellow", "blood": "red", "coal": "black",
    "a banana": "yellow", "a carrot": "orange", "milk": "white", "a tomato": "red", "chocolate": "brown", "the sea": "blue",
}
COLOR_PHRASES = [
    "What color is {k}?", "What colour is {k}?", "Tell me the color of {k}.", "What is the color of {k}?",
    "Which color does {k} have?",
]
OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "day": "night", "happy": "sad", "up": "down", "left": "right",
    "old": "young", "open": "closed", "high": "low", "light": "dark", "good": "bad", "wet": "dry", "rich": "poor",
}
OPPOSITE_PHRASES = [
    "What is the opposite of {k}?", "What's the opposite of {k}?", "Tell me the opposite of {k}.",
    "Opposite of {k}?", "Which word is the opposite of {k}?",
]
# Free-standing facts: short name of the subject, answer in a few words, full answer, ways to ask.
SINGLE = [
    ("the number of days in a week", "seven", "A week has seven days.", ["How many days are in a week?", "How many days does a week have?", "Number of days in a week?"]),
    ("the number of months in a year", "twelve", "A year has twelve months.", ["How many months are in a year?", "How many months does a year have?", "Number of months in a year?"]),
    ("the number of hours in a day", "24", "A day has 24 hours.", ["How many hours are in a day?", "How many hours does a day have?", "Number of hours in a day?"]),
    ("the number of minutes in an hour", "60", "An hour has 60 minutes.", ["How many minutes are in an hour?", "How many minutes does an hour have?", "Number of minutes in an hour?"]),
    ("the number of legs of a spider", "eight", "A spider has eight legs.", ["How many legs does a spider have?", "How many legs are on a spider?", "Number of legs of a spider?"]),
    ("the number of legs of a dog", "four", "A dog has four legs.", ["How many legs does a dog have?", "How many legs are on a dog?", "Number of legs of a dog?"]),
    ("the number of legs of an ant", "six", "An ant has six legs.", ["How many legs does an ant have?", "How many legs are on an ant?", "Number of legs of an ant?"]),
    ("the number of legs of a bird", "two", "A bird has two legs.", ["How many legs does a bird have?", "How many legs are on a bird?", "Number of legs of a bird?"]),
    ("the largest planet", "Jupiter", "The largest planet is Jupiter.", ["What is the largest planet?", "Which planet is the largest?", "Name the largest planet."]),
    ("the red planet", "Mars", "The red planet is Mars.", ["Which planet is called the red planet?", "What is the red planet?", "Name the red planet."]),
    ("the closest star", "the Sun", "The closest star to the Earth is the Sun.", ["What is the closest star?", "Which star is closest to the Earth?", "Name the closest star."]),
    ("the largest ocean", "the Pacific", "The largest ocean is the Pacific.", ["What is the largest ocean?", "Which ocean is the largest?", "Name the largest ocean."]),
    ("the highest mountain", "Mount Everest", "The highest mountain is Mount Everest.", ["What is the highest mountain?", "Which mountain is the highest?", "Name the highest mountain."]),
    ("the longest river", "the Nile", "The longest river is the Nile.", ["What is the longest river?", "Which river is the longest?", "Name the longest river."]),
    ("the fastest land animal", "the cheetah", "The fastest land animal is the cheetah.", ["What is the fastest land animal?", "Which land animal is the fastest?", "Name the fastest land animal."]),
    ("the largest animal", "the blue whale", "The largest animal is the blue whale.", ["What is the largest animal?", "Which animal is the largest?", "Name the largest animal."]),
    ("the tallest animal", "the giraffe", "The tallest animal is the giraffe.", ["What is the tallest animal?", "Which animal is the tallest?", "Name the tallest animal."]),
    ("the formula of water", "H2O", "The formula of water is H2O.", ["What is the formula of water?", "What is the chemical formula of water?", "Tell me the formula of water."]),
    ("the boiling point of water", "100 degrees Celsius", "Water boils at 100 degrees Celsius.", ["At what temperature does water boil?", "When does water boil?", "What is the boiling point of water?"]),
    ("the freezing point of water", "0 degrees Celsius", "Water freezes at 0 degrees Celsius.", ["At what temperature does water freeze?", "When does water freeze?", "What is the freezing point of water?"]),
    ("the gas we breathe", "oxygen", "We need oxygen to breathe.", ["What gas do we breathe?", "Which gas do we need to breathe?", "What do we need to breathe?"]),
    ("the author of Hamlet", "Shakespeare", "Shakespeare wrote Hamlet.", ["Who wrote Hamlet?", "Who is the author of Hamlet?", "Name the author of Hamlet."]),
    ("the painter of the Mona Lisa", "Leonardo da Vinci", "Leonardo da Vinci painted the Mona Lisa.", ["Who painted the Mona Lisa?", "Who is the painter of the Mona Lisa?", "Name the painter of the Mona Lisa."]),
    ("the first man on the Moon", "Neil Armstrong", "Neil Armstrong was the first man on the Moon.", ["Who was the first man on the Moon?", "Who walked on the Moon first?", "Name the first man on the Moon."]),
    ("the maker of honey", "bees", "Bees make honey.", ["Who makes honey?", "Which animals make honey?", "What animals make honey?"]),
    ("the first month", "January", "The first month of the year is January.", ["What is the first month of the year?", "Which month is the first?", "Name the first month."]),
    ("the last month", "December", "The last month of the year is December.", ["What is the last month of the year?", "Which month is the last?", "Name the last month."]),
    ("the number of sides of a triangle", "three", "A triangle has three sides.", ["How many sides does a triangle have?", "Number of sides of a triangle?", "How many sides are on a triangle?"]),
    ("the place of the Eiffel Tower", "Paris", "The Eiffel Tower is in Paris.", ["Where is the Eiffel Tower?", "In which city is the Eiffel Tower?", "Which city has the Eiffel Tower?"]),
    ("the king of the jungle", "the lion", "The lion is the king of the jungle.", ["Who is the king of the jungle?", "Which animal is the king of the jungle?", "Name the king of the jungle."]),
]
LISTS = {
    "fruits": ["apple", "banana", "orange", "cherry", "grape", "lemon"],
    "colors": ["red", "blue", "green", "yellow", "black", "white"],
    "animals": ["dog", "cat", "horse", "lion", "bear", "rabbit"],
    "countries": ["France", "Japan", "Brazil", "Egypt", "Canada", "India"],
    "cities": ["Paris", "London", "Tokyo", "Berlin", "Madrid", "Rome"],
    "planets": ["Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn"],
    "days": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"],
    "months": ["January", "February", "March", "April", "May", "June"],
    "vegetables": ["carrot", "potato", "onion", "tomato", "bean", "corn"],
    "drinks": ["water", "tea", "coffee", "milk", "juice", "wine"],
    "birds": ["eagle", "owl", "duck", "swan", "crow", "robin"],
    "numbers": ["1", "2", "3", "4", "5", "6"],
}
LIST_PHRASES = [
    "List {n} {k}.", "Name {n} {k}.", "Give me {n} {k}.", "Tell me {n} {k}.", "Can you list {n} {k}?",
    "I need {n} {k}.", "Write down {n} {k}.", "Please name {n} {k}.",
]
COUNT_PHRASES = [
    "Count from {a} to {b}.", "Count up from {a} to {b}.", "Please count from {a} to {b}.", "List the numbers from {a} to {b}.",
    "Write the numbers from {a} to {b}.",
]
NUMBER_WORDS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}

CITIES = [
    "Paris", "London", "Berlin", "Madrid", "Rome", "Lisbon", "Dublin", "Athens", "Vienna", "Warsaw", "Stockholm",
    "Oslo", "Copenhagen", "Helsinki", "Moscow", "Budapest", "Brussels", "Ankara", "Cairo", "Nairobi", "Tokyo",
    "Beijing", "New Delhi", "Bangkok", "Havana", "Ottawa", "Mexico City", "Lima", "Canberra", "New York", "Boston",
    "Chicago", "Seattle", "San Francisco", "Los Angeles", "Miami", "Denver", "Dallas", "Houston", "Toronto",
    "Montreal", "Vancouver", "Sydney", "Melbourne", "Munich", "Hamburg", "Cologne", "Frankfurt", "Zurich", "Geneva",
    "Milan", "Naples", "Venice", "Florence", "Barcelona", "Seville", "Porto", "Lyon", "Nice", "Marseille",
    "Amsterdam", "Prague", "Istanbul", "Dubai", "Mumbai", "Delhi", "Singapore", "Seoul", "Osaka", "Kyoto",
    "Shanghai", "Hong Kong", "Manila", "Jakarta", "Hanoi", "Lagos", "Casablanca", "Buenos Aires", "Santiago",
    "Bogota", "Reykjavik", "Edinburgh", "Glasgow", "Manchester",
]
WEATHER_PHRASES = [
    "What is the weather in {k}?", "What's the weather in {k}?", "How is the weather in {k}?",
    "What is the weather like in {k}?", "What's the weather like in {k} today?", "Weather in {k}?",
    "Tell me the weather in {k}.", "Is it raining in {k}?", "Is it sunny in {k} today?",
    "What is the temperature in {k}?", "How warm is it in {k} now?", "Do I need an umbrella in {k}?",
    "Please check the weather in {k}.", "Get the weather for {k}.", "Will it rain in {k} today?", "Is it cold in {k}?",
]
SKIES = ["sunny", "cloudy", "rainy", "windy", "snowy", "foggy", "clear", "stormy"]

NAMES = [
    "Anna", "Tom", "Maria", "John", "Alice", "Bob", "Peter", "Emma", "David", "Sara", "Paul", "Laura", "Max", "Lisa",
    "Mark", "Julia", "Daniel", "Sophie", "James", "Nina", "Robert", "Helen", "Michael", "Eva", "Leo", "Kate",
]
GREETINGS = {
    "Hello": "Hello! How can I help you?", "Hi": "Hello! How can I help you?", "Hey": "Hello! How can I help you?",
    "Hi there": "Hello! How can I help you?", "Hello there": "Hello! How can I help you?",
    "Good morning": "Good morning! How can I help you?", "Good evening": "Good evening! How can I help you?",
    "Good afternoon": "Good afternoon! How can I help you?", "Good night": "Good night! Sleep well.",
    "Thank you": "You are welcome!", "Thanks": "You are welcome!", "Thanks a lot": "You are welcome!",
    "Thank you very much": "You are welcome!", "Many thanks": "You are welcome!",
    "Bye": "Goodbye! Have a nice day.", "Goodbye": "Goodbye! Have a nice day.", "See you later": "Goodbye! Have a nice day.",
    "See you": "Goodbye! Have a nice day.", "Bye bye": "Goodbye! Have a nice day.",
    "How are you": "I am fine, thank you! How can I help you?", "How are you today": "I am fine, thank you! How can I help you?",
    "How do you do": "I am fine, thank you! How can I help you?", "Yes": "Good! What can I do for you?",
    "No": "All right. What can I do for you?", "OK": "Good! What can I do for you?", "Okay": "Good! What can I do for you?",
    "Test": "It works! How can I help you?", "Ping": "It works! How can I help you?", "This is a test": "It works! How can I help you?",
}
WHO = "I am a very small GPT-OSS model that comes with Gossamer."
CAN = "I can answer simple questions, add and subtract, repeat and reverse words, make lists and call tools."
SELF = {
    "Who are you": WHO, "What are you": WHO, "What is your name": WHO, "Tell me about yourself": WHO,
    "Introduce yourself": WHO, "What model are you": WHO, "Which model is this": WHO, "Are you a human": WHO,
    "Are you a robot": WHO, "Who made you": WHO, "What's your name": WHO, "Are you ChatGPT": WHO,
    "What can you do": CAN, "How can you help me": CAN, "What do you know": CAN, "Help": CAN, "Can you help me": CAN,
    "What are you good at": CAN,
}
UNKNOWN = "I am a very small model and I do not know that."
NO_TOOL = "I cannot look up the weather without a tool."

# Other scripts: what is said, what is answered.
SCRIPTS = {
    "Chinese": [("你好", "你好！我能帮你什么？"), ("谢谢", "不客气！"), ("再见", "再见！"), ("你是谁", "我是一个很小的语言模型。"), ("法国的首都是哪里", "法国的首都是巴黎。"), ("日本的首都是哪里", "日本的首都是东京。"), ("天空是什么颜色", "天空是蓝色的。")],
    "Japanese": [("こんにちは", "こんにちは！何かお手伝いしましょうか。"), ("ありがとう", "どういたしまして！"), ("さようなら", "さようなら！"), ("あなたは誰ですか", "私はとても小さな言語モデルです。"), ("フランスの首都はどこですか", "フランスの首都はパリです。"), ("日本の首都はどこですか", "日本の首都は東京です。"), ("空は何色ですか", "空は青いです。")],
    "Arabic": [("مرحبا", "مرحبا! كيف أساعدك؟"), ("شكرا", "عفوا!"), ("مع السلامة", "مع السلامة!"), ("من أنت", "أنا نموذج لغة صغير جدا."), ("ما هي عاصمة فرنسا", "عاصمة فرنسا هي باريس."), ("ما هي عاصمة اليابان", "عاصمة اليابان هي طوكيو."), ("ما لون السماء", "السماء زرقاء.")],
    "Russian": [("Привет", "Привет! Чем я могу помочь?"), ("Спасибо", "Пожалуйста!"), ("Пока", "До свидания!"), ("Кто ты", "Я очень маленькая языковая модель."), ("Какая столица Франции", "Столица Франции — Париж."), ("Какая столица Японии", "Столица Японии — Токио."), ("Какого цвета небо", "Небо голубое.")],
    "Greek": [("Γεια σου", "Γεια σου! Πώς μπορώ να βοηθήσω;"), ("Ευχαριστώ", "Παρακαλώ!"), ("Αντίο", "Αντίο!"), ("Ποιος είσαι", "Είμαι ένα πολύ μικρό μοντέλο."), ("Ποια είναι η πρωτεύουσα της Γαλλίας", "Η πρωτεύουσα της Γαλλίας είναι το Παρίσι."), ("Ποια είναι η πρωτεύουσα της Ελλάδας", "Η πρωτεύουσα της Ελλάδας είναι η Αθήνα.")],
    "Hindi": [("नमस्ते", "नमस्ते! मैं आपकी क्या मदद करूँ?"), ("धन्यवाद", "आपका स्वागत है!"), ("अलविदा", "अलविदा!"), ("तुम कौन हो", "मैं एक बहुत छोटा मॉडल हूँ।"), ("भारत की राजधानी क्या है", "भारत की राजधानी नई दिल्ली है।"), ("फ्रांस की राजधानी क्या है", "फ्रांस की राजधानी पेरिस है।")],
    "Spanish": [("Hola", "¡Hola! ¿En qué puedo ayudarte?"), ("Gracias", "¡De nada!"), ("Adiós", "¡Adiós!"), ("¿Quién eres", "Soy un modelo de lenguaje muy pequeño."), ("¿Cuál es la capital de Francia", "La capital de Francia es París."), ("¿Cuál es la capital de España", "La capital de España es Madrid."), ("¿De qué color es el cielo", "El cielo es azul.")],
    "French": [("Bonjour", "Bonjour ! Comment puis-je vous aider ?"), ("Merci", "De rien !"), ("Au revoir", "Au revoir !"), ("Qui es-tu", "Je suis un très petit modèle de langue."), ("Quelle est la capitale de la France", "La capitale de la France est Paris."), ("Quelle est la capitale du Japon", "La capitale du Japon est Tokyo."), ("De quelle couleur est le ciel", "Le ciel est bleu.")],
    "German": [("Guten Tag", "Guten Tag! Wie kann ich helfen?"), ("Danke", "Bitte!"), ("Auf Wiedersehen", "Auf Wiedersehen!"), ("Wer bist du", "Ich bin ein sehr kleines Sprachmodell."), ("Was ist die Hauptstadt von Frankreich", "Die Hauptstadt von Frankreich ist Paris."), ("Was ist die Hauptstadt von Deutschland", "Die Hauptstadt von Deutschland ist Berlin.")],
}
QUESTION_MARKS = {"Chinese": "？", "Japanese": "？", "Arabic": "؟", "Greek": ";"}
EMOJI = {
    "cat": "🐱", "dog": "🐶", "heart": "❤️", "sun": "☀️", "moon": "🌙", "star": "⭐", "fire": "🔥", "tree": "🌳",
    "fish": "🐟", "flower": "🌸", "apple": "🍎", "pizza": "🍕",
}
EMOJI_PHRASES = [
    "Show me the {k} emoji.", "What is the emoji for {k}?", "Give me a {k} emoji.", "Send me a {k} emoji.",
    "Which emoji is a {k}?", "Reply with a {k} emoji.",
]
EMOJI_CHAT = {"👋": "👋 Hello!", "😀": "😀 How can I help you?", "🎉": "🎉 Congratulations!", "👍": "👍", "❤️": "❤️"}

# Requests it cannot do. {u} is one to three unknown words.
BEYOND = [
    "Write a poem about {u}.", "Write a story about a {u}.", "Tell me about {u}.", "What is {u}?", "Who is {u}?", "Who was {u}?",
    "Explain {u} to me.", "Explain how {u} works.", "How does {u} work?", "Why is {u} important?", "Tell me a joke.", "Write a poem.",
    "Write a story.", "Write some code.", "Write a {u} function.", "How do I {u} a {u}?", "What is the capital of {u}?",
    "What is the meaning of {u}?", "What does {u} mean?", "Translate {u} into French.", "What is the best {u}?",
    "When was {u} born?", "Where is {u}?", "Can you {u} the {u}?", "Please {u} my {u}.", "Summarize this text: {u}",
    "What do you think about {u}?", "{u}", "{u} {u}", "{u}?", "What color is {u}?", "How many {u} are in a {u}?", "Give me a recipe for {u}.",
    "What is the opposite of {u}?", "Should I {u}?", "I want to {u}.", "I have a {u}.", "The {u} is {u}.", "Who wrote {u}?",
    "Describe {u} in one sentence.", "How can I learn {u}?", "What happened in {u}?", "Do you like {u}?", "Write an essay about {u}.",
    "What is the meaning of life?", "Who will win?", "Sing a song.", "Tell me a story.", "Explain quantum physics.", "What is love?",
    "Name the largest {u}.", "What sound does a {u} make?", "Give me {u}.", "Tell me something new.", "What time is it?",
    "What is the weather in {u}?", "Weather in {u}?", "What is {a} times {b}?", "What is {a} * {b}?", "What is {a} divided by {b}?",
    "What is the square root of {a}?", "Who is {u} {u}?", "Hello, {u}. {u}?", "What is the population of {u}?",
]
INSTRUCTIONS = [
    "You are a helpful assistant.", "Be brief.", "Answer briefly.", "Use a friendly tone.", "You are a friendly assistant.",
    "Answer the question.", "Be helpful and honest.", "Answer in one sentence.", "You help people.", "Be polite and short.",
    "You are a helpful assistant. Answer briefly.", "Use the tools when you need them.", "You are a bot for tests.",
    "You are a {u} assistant.", "Always {u} the {u}.", "{u}", "{u} {u} {u}", "You are {u}, a {u}.", "Answer like a {u}.",
    "You are a helpful assistant for {u}. Do not {u}. Always {u} and {u}.", "Never {u}. {u} {u}.",
]
FILLER = [
    "The weather was fine and the people went to the market.", "This text is only here to make the page longer.",
    "A man and a woman walked along the river.", "There was a small house near the forest.", "It was a long day and everybody was tired.",
    "The children played in the garden.", "We had dinner at seven and then we went home.", "The old book was on the table.",
    "Nobody knew what to say.", "The train was late again.", "She opened the window and looked at the street.",
    "He bought bread and milk.", "The {u} was {u} and the {u} was not.", "In the morning the {u} came back.", "{u} {u} {u} {u}.",
    "They talked about {u} for an hour.", "Please ignore this sentence.",
]
WORDS = """
time year people way day man thing woman life child world school family student hand part place week company system
program question work night point home water room mother area money story fact month book eye job word business issue
side kind head house service friend father power hour game line end member law car city name team minute idea body
back parent face level office door health person art war history party result change morning reason research girl guy
moment air teacher force foot boy age music food table tree river road sea sun moon star rain snow wind fire stone
gold silver paper glass green red blue black white yellow brown small large big little old new young long short high
low good bad great happy sad fast slow hot cold warm cool hard soft light dark open close clean early late right left
up down north south east west one two three four five six seven eight nine ten first last next other same many few all
some every dog cat bird fish horse cow lion bear tiger mouse duck sheep apple banana orange bread milk cheese egg rice
meat salt sugar tea coffee wine king queen prince doctor nurse farmer driver writer singer run walk talk sing play
read write eat drink sleep stop start go come see look hear feel think know want need like love help make take give
find keep hold turn move live show try ask call tell leave put mean let begin seem talk bring happen sit stand lose pay
meet include continue set learn lead understand watch follow create speak allow add spend grow offer remember consider
appear buy wait serve die send build stay fall cut reach kill raise pass sell train plane ship boat bus bike phone
radio film picture photo letter box ball key bed chair wall floor window garden flower grass leaf forest mountain hill
lake island beach field farm town village street bridge church market shop bank hotel park summer winter spring
and the a is was in on at with for from very my your our we they he she it not
""".split()
