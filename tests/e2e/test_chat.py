"""Chat completions through the OpenAI SDK: answers, reasoning, streams, tools, and what a request can ask for."""

import json

from harness import MODEL

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def ask(client, text, **more):
    more.setdefault("temperature", 0)
    # A bound for the day on which the model would rather go on for ever.
    more.setdefault("max_completion_tokens", 400)
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], **more)


def test_an_answer_with_reasoning_and_usage(client):
    answer = ask(client, "What is the capital of France?")
    choice = answer.choices[0]
    assert "Paris" in choice.message.content
    assert choice.finish_reason == "stop"
    assert choice.message.reasoning
    assert choice.message.reasoning_content == choice.message.reasoning
    assert "<|" not in choice.message.content + choice.message.reasoning
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens
    assert answer.model == MODEL and answer.id.startswith("chatcmpl-")


def test_more_effort_means_more_reasoning(client):
    def reasoning_tokens(effort):
        answer = ask(client, "What is 3 + 4?", reasoning_effort=effort)
        assert "7" in answer.choices[0].message.content
        return answer.usage.completion_tokens_details.reasoning_tokens

    assert reasoning_tokens("low") < reasoning_tokens("high")


def test_a_stream_gives_the_same_texts_as_the_whole(client):
    whole = ask(client, "What is the capital of Japan?").choices[0]
    chunks = list(ask(client, "What is the capital of Japan?", stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == whole.message.content
    assert "".join(getattr(delta, "reasoning", None) or "" for delta in deltas) == whole.message.reasoning
    assert deltas[0].role == "assistant"
    finish = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert finish[-1] == "stop" and not any(finish[:-1])
    assert not chunks[-1].choices and chunks[-1].usage.completion_tokens > 0
    assert len({chunk.id for chunk in chunks}) == 1


def test_many_scripts_survive_streaming(client):
    for text in ("Bonjour!", "Hola!", "Привет!", "你好!", "こんにちは!", "مرحبا!"):
        whole = ask(client, text).choices[0].message.content
        deltas = [chunk.choices[0].delta.content or "" for chunk in ask(client, text, stream=True) if chunk.choices]
        assert "".join(deltas) == whole
        assert "\ufffd" not in whole


def test_the_tool_loop(client):
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    first = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER], temperature=0).choices[0]
    assert first.finish_reason == "tool_calls"
    (call,) = first.message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}

    messages.append(first.message.model_dump(exclude_none=True))
    result = json.dumps({"temperature": 21, "condition": "sunny"})
    messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    last = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER], temperature=0).choices[0]
    assert last.finish_reason == "stop" and not last.message.tool_calls
    assert "21" in last.message.content and "sunny" in last.message.content


def test_a_streamed_tool_call_arrives_in_pieces_that_fit(client):
    name, arguments, finish = "", "", None
    for chunk in ask(client, "What is the weather in Oslo?", tools=[WEATHER], stream=True):
        for choice in chunk.choices:
            finish = choice.finish_reason or finish
            for call in choice.delta.tool_calls or []:
                name += call.function.name or ""
                arguments += call.function.arguments or ""
    assert (name, json.loads(arguments), finish) == ("get_weather", {"city": "Oslo"}, "tool_calls")


def test_tool_choice_none_calls_nothing(client):
    choice = ask(client, "What is the weather in Oslo?", tools=[WEATHER], tool_choice="none").choices[0]
    assert not choice.message.tool_calls and choice.finish_reason == "stop"


def test_a_control_token_typed_by_a_user_is_text(client):
    plain = ask(client, "Hello!").usage.prompt_tokens
    typed = ask(client, "Hello!<|end|>").usage.prompt_tokens
    assert typed - plain > 1


def test_n_choices_are_numbered_and_drawn_apart(client):
    answer = ask(client, "Hello!", n=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    texts = [choice.message.content for choice in answer.choices]
    assert texts[0] == texts[1] == ask(client, "Hello!").choices[0].message.content  # greedy

    drawn = client.completions.create(model=MODEL, prompt="a", n=4, max_tokens=16, temperature=1, seed=1)
    assert len({choice.text for choice in drawn.choices}) > 1


def test_the_same_seed_gives_the_same_text(client):
    def draw(seed):
        more = {"temperature": 1, "max_tokens": 24, "extra_body": {"ignore_eos": True}}
        return client.completions.create(model=MODEL, prompt="Once", seed=seed, **more).choices[0].text

    texts = {seed: draw(seed) for seed in range(4)}
    assert texts == {seed: draw(seed) for seed in range(4)}
    assert len(set(texts.values())) > 1


def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(client):
    full = ask(client, "What is the capital of France?").choices[0].message.content
    assert "Paris" in full
    for stream in (False, True):
        answer = ask(client, "What is the capital of France?", stop=["never said", "Paris"], stream=stream)
        if stream:
            chunks = [chunk.choices[0] for chunk in answer if chunk.choices]
            text, reason = "".join(chunk.delta.content or "" for chunk in chunks), chunks[-1].finish_reason
        else:
            text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
        assert text == full[: full.index("Paris")] and reason == "stop"


def test_max_tokens_ends_with_length(client):
    answer = ask(client, "Hello!", max_completion_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_logprobs_are_those_of_the_answer(client):
    choice = ask(client, "What is the capital of France?", logprobs=True, top_logprobs=3).choices[0]
    tokens = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == choice.message.content
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        best = [top.logprob for top in token.top_logprobs]
        assert best == sorted(best, reverse=True)
        assert abs(best[0] - token.logprob) < 1e-4  # greedy draws the likeliest


def test_a_repeated_prompt_is_served_from_the_cache(client):
    long = "Repeat: " + "green river table stone " * 20
    first, second = ask(client, long).usage, ask(client, long).usage
    assert second.prompt_tokens_details.cached_tokens > first.prompt_tokens // 2
    assert second.completion_tokens == first.completion_tokens
