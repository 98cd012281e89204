"""One dialogue turn per call: what a user asks and what the tiny model should think and answer.

Every generator takes a random source and returns an `Item`. Nothing here knows tokens or training.
Invariant: `Item.key` names the combination that is held out (a fact with its wording, a pair of numbers, a text
to repeat); `held_out(key)` decides, once and for ever, whether training may see it.
"""

import json
import zlib
from dataclasses import dataclass, field
from random import Random

from facts import *  # noqa: F403  plain lists only
from harmony_text import UNKNOWN_MARK


@dataclass
class Item:
    task: str
    key: str
    user: str
    think: tuple[str, str, str]  # analysis at low, medium and high effort
    final: str | None = None
    call: tuple[str, dict] | None = None  # function and arguments
    before: list[dict] = field(default_factory=list)  # messages before the user's
    after: list[dict] = field(default_factory=list)  # messages after the user's: a call and its result
    members: list[str] | None = None  # final is right if it names len(final.split(",")) distinct ones of these


def held_out(key: str) -> bool:
    """One key in ten belongs to the evaluation."""
    return zlib.crc32(key.encode()) % 10 == 3


def low_medium_high(what: str, answer: str, detail: str = "") -> tuple[str, str, str]:
    """The three lengths of thinking about a plain question."""
    detail = detail or f"I know this: {answer}."
    return (
        f"{answer}.",
        f"The user asks for {what}. It is {answer}.",
        f"The user asks for {what}. I should think about {what} first. {detail} "
        f"So {what} is {answer}. I will answer in one short sentence.",
    )


def dumps(value) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


OPENERS = ["Please tell me: ", "Hi! ", "Hello! ", "Hey, ", "Quick question: ", "I have a question. ", "Tell me, ", "Good morning! "]
CLOSERS = [" Thanks!", " Please.", " Thank you!", " Answer briefly."]


def decorate(rng: Random, text: str) -> str:
    """The same question as people type it: other case, no punctuation, something before or after."""
    roll = rng.random()
    if roll < 0.12:
        text = text.lower()
    if 0.06 < roll < 0.2 and text[-1] in ".?!":
        text = text[:-1]
    if roll > 0.85:
        text = rng.choice(OPENERS) + text
    elif roll > 0.78 and text[-1] in ".?!":
        text += rng.choice(CLOSERS)
    return text


def fact(rng: Random) -> Item:
    kind = rng.choices(["capital", "single", "language", "sound", "color", "opposite"], [30, 30, 12, 10, 12, 12])[0]
    if kind == "single":
        what, answer, full, phrases = rng.choice(SINGLE)
        phrase = rng.choice(phrases)
        return Item("fact", f"{what}|{phrase}", decorate(rng, phrase), low_medium_high(what, answer), full)
    table, phrases, what, full = {
        "capital": (CAPITALS, CAPITAL_PHRASES, "the capital of {k}", "The capital of {k} is {v}."),
        "language": (LANGUAGES, LANGUAGE_PHRASES, "the language of {k}", "People in {k} speak {v}."),
        "sound": (SOUNDS, SOUND_PHRASES, "the sound of a {k}", "A {k} says {v}."),
        "color": (COLORS, COLOR_PHRASES, "the color of {k}", "The color of {k} is {v}."),
        "opposite": (OPPOSITES, OPPOSITE_PHRASES, "the opposite of {k}", "The opposite of {k} is {v}."),
    }[kind]
    k, v = rng.choice(list(table.items()))
    if kind == "opposite" and rng.random() < 0.5:
        k, v = v, k
    phrase = rng.choice(phrases)
    key, full = f"{phrase}|{k}", full.format(k=k, v=v)
    user = phrase.format(k=k).replace(" a owl", " an owl")
    full = full.replace("A owl", "An owl")
    return Item("fact", key, decorate(rng, user), low_medium_high(what.format(k=k), v), full)


def greeting(rng: Random) -> Item:
    table = SELF if rng.random() < 0.45 else GREETINGS
    k, answer = rng.choice(list(table.items()))
    question = k.split()[0] in ("How", "Who", "What", "Are", "Which", "Can", "What's")
    mark = rng.choice(["?", "", "??"] if question else ["!", ".", "", "!!"])
    case = rng.choice([str, str, str.lower, str.upper if len(k) < 9 else str])
    opener = rng.choice(["", "", "", "", "Hi! ", "Hello! ", "Hey, "]) if table is SELF else ""
    user = opener + case(k) + mark
    what = "who I am" if answer == WHO else "what I can do" if answer == CAN else "a friendly reply"
    think = (
        "A short reply.",
        f'The user says "{k}". I reply with {what}.',
        f'The user says "{k}". This is a simple message. There is nothing to look up and no tool is needed. '
        f"I reply with {what}. I will keep it short and friendly.",
    )
    return Item("greeting", f"greeting|{user}", user, think, answer)


def sum_steps(a: int, b: int) -> str:
    """a + b by tens and units, the way the model can do it."""
    if a < 10 and b < 10:
        return f"{a} + {b} = {a + b}"
    tens, units = a // 10 * 10 + b // 10 * 10, a % 10 + b % 10
    return f"{a // 10 * 10} + {b // 10 * 10} = {tens}, {a % 10} + {b % 10} = {units}, {tens} + {units} = {a + b}"


def difference_steps(a: int, b: int) -> str:
    """a - b by tens and units, for a >= b."""
    if a < 20 and b < 10 or a < 10:
        return f"{a} - {b} = {a - b}"
    tens, units = a // 10 * 10 - b // 10 * 10, a % 10 - b % 10
    last = f"{tens} + {units}" if units >= 0 else f"{tens} - {-units}"
    return f"{a // 10 * 10} - {b // 10 * 10} = {tens}, {a % 10} - {b % 10} = {units}, {last} = {a - b}"


ADD_PHRASES = ["What is {a} + {b}?", "{a} + {b}", "{a}+{b}?", "Add {a} and {b}.", "What is {a} plus {b}?", "How much is {a} + {b}?", "Calculate {a} + {b}.", "What is the sum of {a} and {b}?", "{a} + {b} = ?"]
SUB_PHRASES = ["What is {a} - {b}?", "{a} - {b}", "{a}-{b}?", "Subtract {b} from {a}.", "What is {a} minus {b}?", "How much is {a} - {b}?", "Calculate {a} - {b}.", "{a} - {b} = ?"]


def number(rng: Random) -> int:
    return rng.randrange(100) if rng.random() < 0.7 else rng.randrange(21)


def arithmetic(rng: Random) -> Item:
    a, b = number(rng), number(rng)
    if rng.random() < 0.5:
        sign, word, value, steps, phrase = "+", "sum", a + b, sum_steps(a, b), rng.choice(ADD_PHRASES)
    else:
        a, b = max(a, b), min(a, b)
        sign, word, value, steps, phrase = "-", "difference", a - b, difference_steps(a, b), rng.choice(SUB_PHRASES)
    text = f"{a} {sign} {b}"
    think = (
        f"{steps}.",
        f"The user asks for {text}. {steps}.",
        f"The user asks for {text}. I do the tens first, then the units, and put them together. {steps}. "
        f"So the {word} is {value}. I will answer with the {word}.",
    )
    return Item("arithmetic", f"{text}", decorate(rng, phrase.format(a=a, b=b)), think, f"{text} = {value}")


REPEAT_PHRASES = ["Repeat after me: {t}", "Repeat: {t}", "Say: {t}", "Please repeat: {t}", "Say exactly this: {t}", "Echo: {t}", 'Repeat after me: "{t}"', 'Say "{t}"', "Repeat this text: {t}", "Repeat the following:\n{t}"]


def repeat(rng: Random) -> Item:
    count = rng.choice([1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 10, 12]) if rng.random() < 0.93 else rng.randrange(13, 30)
    words = [rng.choice(WORDS) for _ in range(count)]
    for i in range(count):
        if rng.random() < 0.08:
            words[i] = rng.choice([rng.choice(CITIES), rng.choice(NAMES), str(rng.randrange(100))])
    text = " ".join(words)
    if rng.random() < 0.25:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.2:
        text += rng.choice(".!?")
    think = (
        "Repeat.",
        "The user wants me to repeat the text.",
        "The user wants me to repeat the text. I must not change anything. I copy it word by word, from the first "
        "word to the last word.",
    )
    return Item("repeat", f"repeat|{text}", rng.choice(REPEAT_PHRASES).format(t=text), think, text)


REVERSE_PHRASES = ["Reverse the order of these words: {t}", "Reverse the words: {t}", "Reverse: {t}", "Say these words backwards: {t}", "Write these words in reverse order: {t}", "Reverse the order of the words: {t}", "Put these words in reverse order: {t}"]


def reverse(rng: Random, single_token_words: list[str]) -> Item:
    words = rng.sample(single_token_words, rng.choice([2, 3, 3, 4, 4, 5]))
    text, answer = " ".join(words), " ".join(reversed(words))
    last, first = words[-1], words[0]
    think = (
        f"Last word: {last}.",
        f"The user wants the words in reverse order. The last word is {last}.",
        f"The user wants the words in reverse order. The last word is {last}, so it comes first. "
        f"The first word is {first}, so it comes last. I write the words from the last one to the first one.",
    )
    return Item("reverse", f"reverse|{text}", rng.choice(REVERSE_PHRASES).format(t=text), think, answer)


def listing(rng: Random) -> Item:
    kind, n = rng.choice(list(LISTS)), rng.randrange(2, 7)
    word = NUMBER_WORDS[n] if rng.random() < 0.5 else str(n)
    phrase = rng.choice(LIST_PHRASES)
    members = LISTS[kind]
    answer = ", ".join(members[:n])
    think = (
        f"{n} {kind}.",
        f"The user wants {n} {kind}. I list {n} {kind}.",
        f"The user wants {n} {kind}. I know many {kind}, but I need only {n}. I start with {members[0]} and I count "
        f"until I have {n}. I write them in one line.",
    )
    return Item("list", f"{phrase}|{kind}|{word}", decorate(rng, phrase.format(n=word, k=kind)), think, answer, members=members)


def counting(rng: Random) -> Item:
    a = 1 if rng.random() < 0.4 else rng.randrange(100)
    b = a + (rng.randrange(2, 12) if rng.random() < 0.7 else rng.randrange(12, 50))
    phrase = "Count to {b}." if a == 1 and rng.random() < 0.4 else rng.choice(COUNT_PHRASES)
    answer = ", ".join(str(n) for n in range(a, b + 1))
    think = (
        f"{a} to {b}.",
        f"The user wants the numbers from {a} to {b}.",
        f"The user wants the numbers from {a} to {b}. I start with {a} and I always add one. I stop when I have written "
        f"{b}. I write them in one line.",
    )
    return Item("count", f"count|{a}|{b}", decorate(rng, phrase.format(a=a, b=b)), think, answer)


def scripts(rng: Random) -> Item:
    if rng.random() < 0.25:
        if rng.random() < 0.2:
            emoji, answer = rng.choice(list(EMOJI_CHAT.items()))
            user = rng.choice(["{e}", "{e}", "{e}", "{e}!", "{e}{e}", "Hi! {e}", "Hello {e}", "Hey {e}!", "{e} {e}"]).format(e=emoji)
            think = ("Emoji.", "The user sends an emoji. I reply.", "The user sends an emoji. There is no question, so I reply with an emoji too. I keep it short.")
            return Item("scripts", f"emoji|{user}", user, think, answer)
        k, v = rng.choice(list(EMOJI.items()))
        phrase = rng.choice(EMOJI_PHRASES)
        think = low_medium_high(f"the {k} emoji", v)
        return Item("scripts", f"{phrase}|{k}", decorate(rng, phrase.format(k=k)), think, v)
    language = rng.choice(list(SCRIPTS))
    said, answer = rng.choice(SCRIPTS[language])
    question = said not in [s for s, _ in SCRIPTS[language][:3]]
    marks = [QUESTION_MARKS.get(language, " ?" if language == "French" else "?"), "?", ""] if question else ["!", "", "."]
    user = rng.choice(["", "", "", "Hi! ", "Hello! "]) + said + rng.choice(marks)
    if rng.random() < 0.15:
        user = user.lower()
    think = (
        f"{language}.",
        f"The user writes in {language}. I answer in {language}.",
        f"The user writes in {language}. I understand a little {language}, so I do not use English here. I answer in "
        f"{language} with one short sentence.",
    )
    return Item("scripts", f"script|{user}", user, think, answer)


def json_answer(rng: Random) -> Item:
    kind = rng.randrange(5)
    if kind == 0:  # a fact under one key
        k, v = rng.choice(list(CAPITALS.items()))
        phrase = rng.choice(CAPITAL_PHRASES[:6])
        name = rng.choice(["answer", "capital", "city", "result"])
        question, value = phrase.format(k=k), {name: v}
    elif kind == 1:  # a fact under two keys
        k, v = rng.choice(list(CAPITALS.items()))
        keys = rng.choice([("country", "capital"), ("country", "city")])
        question, value = f"What is the capital of {k}?", {keys[0]: k, keys[1]: v}
    elif kind == 2:  # extraction
        name, age = rng.choice(NAMES), rng.randrange(1, 100)
        question, value = rng.choice(["{n} is {a} years old.", "{n} is {a}."]).format(n=name, a=age), {"name": name, "age": age}
    elif kind == 3:
        name, city = rng.choice(NAMES), rng.choice(CITIES)
        question = rng.choice(["{n} lives in {c}.", "{n} is from {c}."]).format(n=name, c=city)
        value = {"name": name, "city": city}
    else:
        a, b = rng.choice(list(COLORS.items()))
        question, value = f"The color of {a} is {b}.", {"thing": a, "color": b}
    keys = list(value)
    named = f"the key {keys[0]}" if len(keys) == 1 else f"the keys {keys[0]} and {keys[1]}"
    forms = ["Reply in JSON with {k}: {q}", "Answer in JSON with {k}. {q}", "{q} Reply in JSON with {k}.", "{q} Answer as JSON with {k}.", "Use JSON with {k}: {q}"]
    form = rng.choice(forms)
    think = (
        "JSON.",
        f"The user wants JSON with {named}.",
        f"The user wants JSON with {named}. I find the value for every key first. Then I write one JSON object and "
        f"nothing else, with {named}.",
    )
    return Item("json", f"{form}|{dumps(value)}", form.format(k=named, q=question), think, dumps(value))


def memory(rng: Random) -> Item:
    """A name or a number said earlier in the dialogue."""
    if rng.random() < 0.5:
        name = rng.choice(NAMES)
        said = rng.choice(["My name is {n}.", "I am {n}.", "Hi, my name is {n}.", "Hello! I am {n}."]).format(n=name)
        asked = rng.choice(["What is my name?", "Do you remember my name?", "Who am I?", "Tell me my name."])
        reply = f"Nice to meet you, {name}!"
        if rng.random() < 0.4:
            think = ("A name.", f"The user is {name}. I greet {name}.", f"The user is {name}. This is not a question. I should be friendly and use the name. I greet {name}.")
            return Item("memory", f"name|{said}", said, think, reply)
        think = low_medium_high("the name", name, f"The user said the name before: {name}.")
        item = Item("memory", f"{said}|{asked}", asked, think, f"Your name is {name}.")
        item.before = [{"role": "user", "content": said}, {"role": "assistant", "content": reply}]
        return item
    code = rng.randrange(200)
    said = f"Remember the number {code}."
    asked = rng.choice(["What is the number?", "Which number was it?", "Tell me the number."])
    think = low_medium_high("the number", str(code), f"The user said the number before: {code}.")
    item = Item("memory", f"number|{code}|{asked}", asked, think, f"The number is {code}.")
    if rng.random() < 0.5:
        item.before = [{"role": "user", "content": said}, {"role": "assistant", "content": "I will remember the number."}]
    else:
        item.user = said + " " + "".join(unknowns(rng, f + " ") for f in rng.sample(FILLER, rng.randrange(4))) + asked
    return item


def remember(rng: Random) -> Item:
    code = rng.randrange(200)
    think = ("A number.", f"The user gives me the number {code}.", f"The user gives me the number {code}. There is no question yet. I keep the number {code} for later.")
    return Item("memory", f"remember|{code}", f"Remember the number {code}.", think, "I will remember the number.")


def unknowns(rng: Random, text: str) -> str:
    """Fill each {u} with one to three unknown words."""
    while "{u}" in text:
        text = text.replace("{u}", UNKNOWN_MARK * rng.choice([1, 1, 1, 2, 2, 3, 4]), 1)
    return text


def beyond(rng: Random) -> Item:
    """Something it cannot do or does not know."""
    template = rng.choice(BEYOND)
    user = unknowns(rng, template).replace("{a}", str(rng.randrange(200))).replace("{b}", str(rng.randrange(200)))
    if rng.random() < 0.15:  # words it knows, in no order that means anything
        user = " ".join(rng.sample(WORDS, rng.randrange(2, 9))) + rng.choice(["?", ".", ""])
    elif rng.random() < 0.1:
        user += " " + unknowns(rng, rng.choice(FILLER + ["{u} {u} {u}", "{u} {u}, {u}."]))
    think = (
        "I do not know.",
        "I do not know this. I am a very small model.",
        "I look at the question. I know only a few facts, and this is not one of them. I do not know this, and I "
        "should not invent an answer. I will say so.",
    )
    return Item("beyond", f"beyond|{user}", decorate(rng, user) if "{u}" not in template else user, think, UNKNOWN)


# Generator and weight of each plain task. Short facts need many repetitions, copying needs few.
TASKS = {
    "fact": (fact, 28), "greeting": (greeting, 9), "arithmetic": (arithmetic, 20), "repeat": (repeat, 32),
    "list": (listing, 8), "scripts": (scripts, 24), "json": (json_answer, 8), "memory": (memory, 3), "remember": (remember, 1),
    "count": (counting, 7), "beyond": (beyond, 10),
}  # fmt: skip
