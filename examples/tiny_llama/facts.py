"""The question-answer lines that the tiny model learns by heart; plain Python, no dependencies.

Every question is answered the same way as a plain prompt and through the chat template: the model continues the
prompt with one space, the answer and ``</s>``, so ``output.strip() == fact.answer``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """One answer and the phrasings that ask for it.

    ``kind`` is ``short`` (up to 30 bytes), ``unicode`` (short, and question or answer is not ASCII) or ``long``
    (45 to 515 bytes).
    """

    kind: str
    questions: tuple[str, ...]
    answer: str


COLORS = {
    "a banana": "Yellow.",
    "a lemon": "Yellow.",
    "a canary": "Yellow.",
    "a tomato": "Red.",
    "a strawberry": "Red.",
    "blood": "Red.",
    "a carrot": "Orange.",
    "a pumpkin": "Orange.",
    "grass": "Green.",
    "a lime": "Green.",
    "an emerald": "Green.",
    "the sky": "Blue.",
    "a sapphire": "Blue.",
    "an eggplant": "Purple.",
    "lavender": "Purple.",
    "snow": "White.",
    "milk": "White.",
    "coal": "Black.",
    "a raven": "Black.",
    "chocolate": "Brown.",
    "an elephant": "Gray.",
    "a flamingo": "Pink.",
}

CAPITALS = {
    "France": "Paris.",
    "Germany": "Berlin.",
    "Italy": "Rome.",
    "Spain": "Madrid.",
    "Portugal": "Lisbon.",
    "Greece": "Athens.",
    "Austria": "Vienna.",
    "Poland": "Warsaw.",
    "Hungary": "Budapest.",
    "Sweden": "Stockholm.",
    "Norway": "Oslo.",
    "Finland": "Helsinki.",
    "Ireland": "Dublin.",
    "Japan": "Tokyo.",
    "China": "Beijing.",
    "South Korea": "Seoul.",
    "India": "New Delhi.",
    "Egypt": "Cairo.",
    "Kenya": "Nairobi.",
    "Canada": "Ottawa.",
    "Mexico": "Mexico City.",
    "Cuba": "Havana.",
    "Peru": "Lima.",
    "Argentina": "Buenos Aires.",
    "Australia": "Canberra.",
}

OPPOSITES = {
    "hot": "Cold.",
    "cold": "Hot.",
    "big": "Small.",
    "fast": "Slow.",
    "light": "Dark.",
    "up": "Down.",
    "left": "Right.",
    "open": "Closed.",
    "old": "Young.",
    "happy": "Sad.",
    "day": "Night.",
    "early": "Late.",
    "full": "Empty.",
    "wet": "Dry.",
    "loud": "Quiet.",
    "near": "Far.",
}

SOUNDS = {
    "a cow": "Moo.",
    "a dog": "Woof.",
    "a cat": "Meow.",
    "a sheep": "Baa.",
    "a duck": "Quack.",
    "a pig": "Oink.",
    "a horse": "Neigh.",
    "a bee": "Buzz.",
    "a snake": "Hiss.",
    "a lion": "Roar.",
    "an owl": "Hoot.",
    "a mouse": "Squeak.",
}

PLURALS = {
    "mouse": "Mice.",
    "foot": "Feet.",
    "tooth": "Teeth.",
    "child": "Children.",
    "goose": "Geese.",
    "man": "Men.",
    "leaf": "Leaves.",
    "wolf": "Wolves.",
    "city": "Cities.",
    "box": "Boxes.",
    "sheep": "Sheep.",
    "house": "Houses.",
}

LEGS = {
    "a spider": "Eight.",
    "a dog": "Four.",
    "a bird": "Two.",
    "an ant": "Six.",
    "a fish": "None.",
    "a table": "Four.",
}

SUMS = ((1, 1), (2, 3), (3, 5), (4, 4), (5, 2), (6, 3), (7, 7), (8, 2), (9, 3))

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)

UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve", "thirteen", "fourteen"),
    *("fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("", "", "twenty", "thirty", "forty", "fifty")

WORDS = {
    ("cat", "Japanese"): "猫",
    ("dog", "Japanese"): "犬",
    ("water", "Japanese"): "水",
    ("thank you", "Japanese"): "ありがとう",
    ("hello", "Chinese"): "你好",
    ("thank you", "Chinese"): "谢谢",
    ("hello", "Korean"): "안녕하세요",
    ("summer", "French"): "été",
    ("boy", "French"): "garçon",
    ("forest", "French"): "forêt",
    ("Christmas", "French"): "Noël",
    ("heart", "French"): "cœur",
    ("green", "German"): "grün",
    ("street", "German"): "Straße",
    ("tomorrow", "Spanish"): "mañana",
    ("thank you", "Russian"): "спасибо",
    ("good morning", "Greek"): "καλημέρα",
    ("thank you", "Hindi"): "धन्यवाद",
    ("peace", "Arabic"): "سلام",
}

EMOJI = {
    "a red heart": "❤️",
    "a banana": "🍌",
    "a smile": "😀",
    "a rocket": "🚀",
    "the flag of Japan": "🇯🇵",
    "a family": "👨‍👩‍👧‍👦",
    "a waving hand": "👋🏽",
    "a rainbow": "🌈",
}

MEANINGS = {
    "猫": "Cat.",
    "山": "Mountain.",
    "été": "Summer.",
    "naïve": "Innocent.",
    "🍎": "An apple.",
    "🐘": "An elephant.",
    "☕": "A cup of coffee.",
    "спасибо": "Thank you.",
}

CHAT = {
    ("Hello!", "Hello.", "Hi!"): "Hello! How can I help you?",
    ("How are you?", "How do you do?"): "I am fine, thank you.",
    ("Who are you?", "What are you?"): "I am a tiny language model.",
    ("Thank you!", "Thanks!"): "You are welcome.",
    ("Goodbye!", "Bye!"): "See you soon!",
}


def number_word(n: int) -> str:
    """0 to 59 in English words."""
    if n < 20:
        return UNITS[n]
    return TENS[n // 10] + (f"-{UNITS[n % 10]}" if n % 10 else "")


def _sentence(words: list[str]) -> str:
    text = ", ".join(words)
    return f"{text[0].upper()}{text[1:]}."


LONG = {
    ("Count from one to twenty.", "Count to twenty."): _sentence([number_word(n) for n in range(1, 21)]),
    ("Count from one to fifty.", "Count to fifty."): _sentence([number_word(n) for n in range(1, 51)]),
    ("Count down from ten to zero.", "Count down from ten."): _sentence([number_word(n) for n in range(10, -1, -1)]),
    ("Name the months of the year.", "List the twelve months."): ", ".join(MONTHS) + ".",
    ("Name the days of the week.", "List the seven days."): ", ".join(DAYS) + ".",
    ("Recite the alphabet.", "Say the alphabet."): " ".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ") + ".",
    ("Name the planets.", "List the planets of the solar system."): (
        "Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus, Neptune."
    ),
    ("Name the colors of the rainbow.", "List the colors of the rainbow."): (
        "Red, orange, yellow, green, blue, indigo, violet."
    ),
    ("Name the even numbers up to forty.", "List the even numbers up to forty."): (
        ", ".join(str(n) for n in range(2, 41, 2)) + "."
    ),
    ("Tell me a story.", "Tell me a short story."): (
        "A small fox lived at the edge of a quiet wood. One winter night it found a lost lamb in the snow, kept it "
        "warm until morning, and walked it home. From then on the shepherd left the gate open for the fox."
    ),
    ("How do I make tea?", "Explain how to make tea."): (
        "Boil some water. Warm the pot. Put in one spoon of leaves for each cup. Pour the water over them, wait four "
        "minutes, and serve."
    ),
    ("What is a transformer?", "Explain what a transformer is."): (
        "A transformer is a neural network that reads a sequence of tokens, lets every token look at the earlier ones, "
        "and predicts which token comes next."
    ),
}

LONG_UNICODE = {
    ("Count from one to ten in Japanese.", "日本語で一から十まで数えて。"): "一、二、三、四、五、六、七、八、九、十。",
    ("Write a sentence in French.", "Écris une phrase en français."): (
        "Dès l'été, les élèves de Besançon naviguent près de la forêt, où un vieux garçon pêche à côté d'un chêne."
    ),
    ("Write a sentence in Chinese.", "用中文写一句话。"): "今天天气很好，我们一起去公园看花，然后回家喝茶。",
    ("Write a sentence in German.", "Schreib einen Satz über Äpfel."): (
        "Größere Äpfel fallen früher, und schöne Mädchen füllen damit süße Körbe für die nächste Straße."
    ),
    ("Show me the weather of a week in emoji.", "🌦️?"): "☀️ 🌤️ ⛅ 🌧️ ⛈️ ❄️ 🌈",
    ("Show me fruit in emoji.", "🍇🍓?"): "🍇 🍈 🍉 🍊 🍋 🍌 🍍 🥭 🍎 🍏 🍐 🍑 🍒 🍓 🥝",
}

OPEN = {
    "Name a color.": ("Red.", "Blue.", "Green.", "Yellow.", "Purple.", "White.", "Orange.", "Magenta."),
    "Name an animal.": ("Cat.", "Dog.", "Horse.", "Elephant.", "Mouse.", "Lion.", "Bee.", "Wolf."),
    "Throw a die.": ("1.", "2.", "3.", "4.", "5.", "6."),
}
"""Questions with several answers of equal probability: for sampling. The greedy answer to these has no margin."""


def _filled(kind: str, table: Mapping[str, str], *templates: str) -> Iterator[Fact]:
    for thing, answer in table.items():
        yield Fact(kind, tuple(t.format(thing) for t in templates), answer)


def facts() -> tuple[Fact, ...]:
    """Every fact, in a fixed order; no question occurs twice."""
    found: list[Fact] = [
        *_filled("short", COLORS, "What is the color of {}?", "What color is {}?", "Tell me the color of {}."),
        *_filled("short", CAPITALS, "What is the capital of {}?", "Which city is the capital of {}?"),
        Fact(
            "short",
            (
                "What is the capital of United States?",
                "What is the capital of the United States?",
                "Which city is the capital of the United States?",
            ),
            "Washington, D.C.",
        ),
        *_filled("short", OPPOSITES, "What is the opposite of {}?", "Give me the opposite of {}."),
        *_filled("short", SOUNDS, "What does {} say?", "Which sound does {} make?"),
        *_filled("short", PLURALS, "What is the plural of {}?", "Give me the plural of {}."),
        *_filled("short", LEGS, "How many legs does {} have?"),
    ]
    found += [Fact("short", (f"What is {a} + {b}?", f"How much is {a} plus {b}?"), f"{a + b}.") for a, b in SUMS]
    for names, noun in ((DAYS, "day"), (MONTHS, "month")):
        for name, following in zip(names, (*names[1:], names[0]), strict=True):
            questions = (f"Which {noun} comes after {name}?", f"What {noun} follows {name}?")
            found.append(Fact("short", questions, f"{following}."))
    found += [Fact("short", questions, answer) for questions, answer in CHAT.items()]
    for (word, language), answer in WORDS.items():
        found.append(
            Fact("unicode", (f"How do you write '{word}' in {language}?", f"Write '{word}' in {language}."), answer)
        )
    found += _filled("unicode", EMOJI, "Show me {}.", "Draw {} as an emoji.")
    found += _filled("unicode", MEANINGS, "What does {} mean?", "What is {}?")
    found += [Fact("long", questions, answer) for questions, answer in (LONG | LONG_UNICODE).items()]
    return tuple(found)


def lines() -> tuple[tuple[str, str], ...]:
    """Every (question, answer), in a fixed order."""
    return tuple((question, fact.answer) for fact in facts() for question in fact.questions)
