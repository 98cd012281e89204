"""Function declarations and the dialogues that use them. Same contract as `tasks.py`."""

from random import Random

from facts import CITIES, NO_TOOL, SKIES, WEATHER_PHRASES
from harmony_text import UNKNOWN_MARK
from tasks import ADD_PHRASES, Item, decorate, dumps, number, unknowns


def function(name: str, description: str | None, properties: dict, required: list[str] | None = None) -> dict:
    parameters = {"type": "object", "properties": properties, "required": list(properties) if required is None else required}
    inner = {"name": name, "parameters": parameters}
    if description:
        inner["description"] = description
    return {"type": "function", "function": inner}


def weather_tool(rng: Random) -> dict:
    descriptions = [
        "Get the weather", "Get the weather for a city.", "Get the current weather for a city.", "Gets the current weather in a city.",
        "Current weather", "Get weather", "Returns the weather.", "Get the current weather in a given location", None, "{u} the weather {u}.",
        "Get current temperature for a given location.",
    ]
    name = "city" if rng.random() < 0.65 else "location"
    prop = {"type": "string"}
    if rng.random() < 0.6:
        prop["description"] = rng.choice(["The city", "The name of the city.", "City name", "The city and state, e.g. San Francisco, CA", "{u} {u}", "City and country e.g. Paris, France"])
    properties = {name: prop}
    required = [name]
    if rng.random() < 0.15:
        properties["unit"] = {"type": "string", "enum": ["celsius", "fahrenheit"]}
    description = rng.choice(descriptions)
    if description:
        description = unknowns(rng, description)
    if "description" in prop:
        prop["description"] = unknowns(rng, prop["description"])
    return function("get_weather", description, properties, required)


def add_tool(rng: Random) -> dict:
    descriptions = ["Add two numbers", "Add two numbers.", "Adds two numbers.", "Returns the sum of two numbers.", "Add two integers.", "Sum", None, "{u} two numbers."]
    names = ("a", "b") if rng.random() < 0.75 else ("x", "y")
    kind = rng.choice(["number", "integer"])
    properties = {names[0]: {"type": kind}, names[1]: {"type": kind}}
    if rng.random() < 0.35:
        properties[names[0]]["description"] = rng.choice(["The first number", "First number."])
        properties[names[1]]["description"] = rng.choice(["The second number", "Second number."])
    description = rng.choice(descriptions)
    return function("add", unknowns(rng, description) if description else None, properties)


def other_tool(rng: Random) -> dict:
    """A function nobody will need."""
    name = rng.choice(["get_time", "search", "send_email", "get_news", "open_file", UNKNOWN_MARK, UNKNOWN_MARK * 2, f"get_{UNKNOWN_MARK}"])
    description = unknowns(rng, rng.choice(["Get the time.", "Search the web.", "Send an email.", "Get the news.", "Open a file.", "{u} the {u}.", "{u} {u} {u}"]))
    props = {}
    for key in rng.sample(["query", "text", "name", "id", "path", "date", UNKNOWN_MARK, UNKNOWN_MARK * 2], rng.randrange(3)):
        props[key] = {"type": rng.choice(["string", "number", "boolean"])}
        if rng.random() < 0.3:
            props[key]["description"] = unknowns(rng, rng.choice(["The {u}", "The text.", "{u} {u}", "The name."]))
    return function(name, description, props, [k for k in props if rng.random() < 0.8])


def declarations(rng: Random) -> list[dict]:
    """A set of tools as a client may declare it: often one or both of ours, sometimes others."""
    chosen = rng.choice([("w",), ("w",), ("a",), ("w", "a"), ("w", "a"), ("w", "o"), ("a", "o"), ("w", "a", "o"), ("o",)])
    made = [{"w": weather_tool, "a": add_tool, "o": other_tool}[c](rng) for c in chosen]
    rng.shuffle(made)
    return made


def named(tools: list[dict], name: str) -> dict | None:
    return next((t for t in tools if t["function"]["name"] == name), None)


def first_key(tool: dict) -> list[str]:
    return list(tool["function"]["parameters"]["properties"])


def weather_call(rng: Random, tool: dict) -> Item:
    city, phrase = rng.choice(CITIES), rng.choice(WEATHER_PHRASES)
    think = (
        f"Weather in {city}.",
        f"The user asks about the weather in {city}. I need get_weather.",
        f"The user asks about the weather in {city}. I do not know the weather, but I have a tool for it. "
        f"I need get_weather with {city}. I call it now.",
    )
    return Item("tool_weather", f"{phrase}|{city}", decorate_weather(rng, phrase.format(k=city)), think, call=("get_weather", {first_key(tool)[0]: city}))


def decorate_weather(rng: Random, text: str) -> str:
    """As `decorate`, but never lower case: the city is copied from the question as written."""
    out = decorate(rng, text)
    return out if any(c.isupper() for c in out[1:]) else text


def add_call(rng: Random, tool: dict) -> Item:
    a, b = number(rng), number(rng)
    x, y = first_key(tool)[:2]
    phrases = [*ADD_PHRASES, "Use the add tool: {a} and {b}.", "Use add to compute {a} + {b}."]
    think = (
        f"{a} and {b}.",
        f"The user asks for {a} + {b}. I need add.",
        f"The user asks for {a} + {b}. I could add the numbers myself, but I have a tool for it. I need add with {a} "
        f"and {b}. I call it now.",
    )
    return Item("tool_add", f"call|{a}+{b}", decorate(rng, rng.choice(phrases).format(a=a, b=b)), think, call=("add", {x: a, y: b}))


def called(rng: Random, item: Item, effort: int, result: str) -> list[dict]:
    """The messages between the question and the final answer."""
    name, arguments = item.call
    text = dumps(arguments) if rng.random() < 0.7 else dumps(arguments).replace('":', '": ').replace(',"', ', "')
    call = {"id": f"call_{rng.randrange(10**6)}", "type": "function", "function": {"name": name, "arguments": text}}
    assistant = {"role": "assistant", "tool_calls": [call]}
    if rng.random() < 0.6:
        assistant["reasoning"] = item.think[effort]
    return [assistant, {"role": "tool", "tool_call_id": call["id"], "content": result}]


def weather_result(rng: Random, tool: dict, effort: int) -> Item:
    item = weather_call(rng, tool)
    city, degrees, sky = item.call[1][first_key(tool)[0]], rng.randrange(-15, 45), rng.choice(SKIES)
    t = rng.choice(["temperature", "temperature", "temp", "temperature_c", "temp_c"])
    s = rng.choice(["condition", "conditions", "sky", "weather", "description"])
    pairs = [(t, degrees), (s, sky)]
    if rng.random() < 0.35:
        pairs.append((rng.choice(["city", "location"]), city))
    if rng.random() < 0.2:
        pairs.append(("unit", "celsius"))
    if rng.random() < 0.2:
        pairs.append(("humidity", rng.randrange(100)))
    rng.shuffle(pairs)
    result = dumps(dict(pairs))
    if rng.random() < 0.5:
        result = result.replace('":', '": ').replace(',"', ', "')
    final = f"It is {degrees} degrees and {sky} in {city}."
    if rng.random() < 0.15:
        result, final = rng.choice([(f"{sky}, {degrees} degrees", final), (f"{degrees} degrees, {sky}", final), (f"{sky}", f"It is {sky} in {city}.")])
    if rng.random() < 0.08:
        result = rng.choice(['{"error":"not found"}', '{"error": "unknown city"}', "error", '{"error":"timeout"}'])
        final = "Sorry, the tool gave an error."
    # Thought before the call and after the result: the latter is what this item trains.
    think = (
        "The result is here.",
        "The tool gave a result. I tell the user.",
        f"The tool gave a result for {city}. I read the values in it and I do not change them. I tell the user in one "
        f"short sentence.",
    )
    return Item("tool_result", f"{degrees}|{sky}|{city}", item.user, think, final, after=called(rng, item, effort, result))


def add_result(rng: Random, tool: dict, effort: int) -> Item:
    item = add_call(rng, tool)
    a, b = item.call[1].values()
    value = a + b
    result = rng.choice(["{v}", "{v}", '{{"result":{v}}}', '{{"result": {v}}}', '{{"sum":{v}}}', '{{"sum": {v}}}', "The sum is {v}."]).format(v=value)
    think = (
        "The result is here.",
        "The tool gave a result. I tell the user.",
        f"The tool gave a result for {a} + {b}. I read the value in it and I do not change it. I tell the user in one "
        f"short line.",
    )
    return Item("tool_result", f"result|{a}+{b}", item.user, think, f"{a} + {b} = {value}", after=called(rng, item, effort, result))


def no_tool(rng: Random) -> Item:
    """A weather question with no way to look it up."""
    city, phrase = rng.choice(CITIES), rng.choice(WEATHER_PHRASES)
    think = (
        "No tool.",
        f"The user asks about the weather in {city}. I have no tool for it.",
        f"The user asks about the weather in {city}. I do not know the weather, and I have no tool for it. I should not "
        f"invent an answer. I will say so.",
    )
    return Item("no_tool", f"none|{phrase}|{city}", decorate_weather(rng, phrase.format(k=city)), think, NO_TOOL)
