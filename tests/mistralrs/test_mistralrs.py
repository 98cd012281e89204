"""`--engine mistralrs` through the OpenAI SDK: chat, streams, stop, seed, usage, cancelling, a full queue, and refusals.

The model is noise, but noise with a seed: what a request says decides what comes back.
"""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from conftest import flags, sdk
from harness import Server, abandon, gossamer, read_until, wait_until
from make_model import MAX_LEN, make

MODEL = "tiny-qwen3"
DRAWN = "gossamer_scheduler_generation_tokens_total"
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def ask(client, text="Hello, world!", **more):
    more.setdefault("seed", 1)
    more.setdefault("max_tokens", 48)
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], **more)


def text_of(answer):
    return answer.choices[0].message.content


def streamed(client, *args, **more):
    """The text, the finish reason and the usage of a stream, and how many chunks had text."""
    chunks = list(ask(client, *args, stream=True, stream_options={"include_usage": True}, **more))
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert choices[0].delta.role == "assistant"
    reasons = [choice.finish_reason for choice in choices]
    assert reasons[-1] and not any(reasons[:-1])
    assert not chunks[-1].choices
    texts = [choice.delta.content for choice in choices if choice.delta.content]
    return "".join(texts), reasons[-1], chunks[-1].usage, len(texts)


def endless(**more):
    messages = [{"role": "user", "content": "Hello"}]
    body = {"model": MODEL, "messages": messages, "max_tokens": MAX_LEN - 100, "ignore_eos": True, "seed": 3}
    return {**body, **more}


def test_an_answer_has_openais_shape_and_says_what_it_cost(client):
    answer = ask(client)
    assert answer.object == "chat.completion" and answer.model == MODEL and answer.id.startswith("chatcmpl-")
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    # Three bytes of the template around each of two headers, and the question.
    assert 10 < usage.prompt_tokens < 60
    longer = ask(client, "Hello, world! " * 10).usage
    assert longer.prompt_tokens > usage.prompt_tokens + 20
    assert usage.prompt_tokens_details.cached_tokens == longer.prompt_tokens_details.cached_tokens == 0


def test_exactly_as_many_tokens_as_asked_for(client):
    for count in (1, 2, 33):
        answer = ask(client, max_tokens=count, extra_body={"ignore_eos": True})
        assert answer.usage.completion_tokens == count
        assert answer.choices[0].finish_reason == "length"


def test_the_model_ends_by_itself_now_and_then_and_its_end_is_no_text(client):
    for seed in range(40):
        answer = ask(client, seed=seed, max_tokens=200)
        if answer.choices[0].finish_reason == "stop":
            break
    else:
        pytest.fail("a model of random weights draws its end once in about a hundred tokens")
    assert answer.usage.completion_tokens < 200
    assert "<|" not in text_of(answer)
    least = answer.usage.completion_tokens + 20
    longer = ask(client, seed=seed, max_tokens=400, extra_body={"min_tokens": least})
    assert longer.usage.completion_tokens >= least


def test_a_stream_gives_the_same_text_as_the_whole_piece_by_piece(client):
    whole = ask(client, "Tell me a story")
    text, reason, usage, pieces = streamed(client, "Tell me a story")
    assert (text, reason) == (text_of(whole), whole.choices[0].finish_reason)
    assert usage == whole.usage
    assert pieces > usage.completion_tokens / 2
    without = list(ask(client, "Tell me a story", stream=True))
    assert all(chunk.usage is None for chunk in without)


def test_the_same_seed_gives_the_same_text_and_another_another(client):
    texts = {seed: text_of(ask(client, seed=seed)) for seed in range(4)}
    assert len(set(texts.values())) == 4
    assert all(text_of(ask(client, seed=seed)) == text for seed, text in texts.items())
    unseeded = {text_of(ask(client, seed=None)) for _ in range(4)}
    assert len(unseeded) == 4


def test_a_seeded_text_is_the_same_whatever_else_was_asked_before_and_meanwhile(client):
    """mistral.rs draws everything from one generator; here each choice has a stream of its own."""
    alone = [text_of(ask(client, seed=seed, max_tokens=24)) for seed in range(8)]
    ask(client, "Something else", seed=99)
    with ThreadPoolExecutor(8) as pool:
        crowd = list(pool.map(lambda seed: text_of(ask(client, seed=seed, max_tokens=24)), range(8)))
    assert crowd == alone


def test_choices_are_their_own_and_the_first_is_the_one_that_comes_alone(client):
    answer = ask(client, n=3, max_tokens=24, extra_body={"ignore_eos": True})
    texts = [choice.message.content for choice in answer.choices]
    assert len(set(texts)) == 3
    assert texts[0] == text_of(ask(client, max_tokens=24, extra_body={"ignore_eos": True}))
    assert answer.usage.completion_tokens == 72
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    chunks = list(ask(client, n=3, max_tokens=24, stream=True, extra_body={"ignore_eos": True}))
    for i, text in enumerate(texts):
        mine = [choice for chunk in chunks for choice in chunk.choices if choice.index == i]
        assert "".join(choice.delta.content or "" for choice in mine) == text
        assert mine[-1].finish_reason == "length"


def test_sampling_parameters_reach_the_draw(client):
    greedy = {text_of(ask(client, temperature=0, seed=seed)) for seed in range(3)}
    assert len(greedy) == 1
    assert text_of(ask(client, top_p=0.0, seed=5)) in greedy
    assert text_of(ask(client, seed=6, extra_body={"top_k": 1})) in greedy
    assert text_of(ask(client, seed=7, extra_body={"min_p": 1.0})) in greedy
    assert text_of(ask(client, temperature=0, frequency_penalty=2.0)) not in greedy


def test_stop_strings_cut_where_they_begin_and_end_the_work(server, client):
    free = text_of(ask(client, max_tokens=200, extra_body={"ignore_eos": True}))
    stop = free[40:43]
    at = free.index(stop)
    before = server.metrics()[DRAWN]
    answer = ask(client, max_tokens=1500, stop=stop, extra_body={"ignore_eos": True})
    assert text_of(answer) == free[:at]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens <= at + len(stop)
    stops = ["nowhere to be found", stop]
    text, reason, usage, _ = streamed(client, max_tokens=1500, stop=stops, extra_body={"ignore_eos": True})
    assert (text, reason) == (free[:at], "stop")
    assert usage.completion_tokens == answer.usage.completion_tokens
    server.assert_idle()
    drawn = server.metrics()[DRAWN] - before
    assert drawn < 200, "the engine stopped soon after the string came"


def test_log_probabilities_are_those_of_the_model(client):
    answer = ask(client, max_tokens=12, logprobs=True, top_logprobs=3, extra_body={"ignore_eos": True})
    entries = answer.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries) == text_of(answer)
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        likeliest = [top.logprob for top in entry.top_logprobs]
        assert likeliest == sorted(likeliest, reverse=True)
        assert entry.logprob <= likeliest[0] <= 0
        assert 0 < math.exp(entry.logprob) <= 1
    greedy = ask(client, max_tokens=4, temperature=0, logprobs=True, top_logprobs=1)
    for entry in greedy.choices[0].logprobs.content:
        assert entry.token == entry.top_logprobs[0].token


def test_answers_can_be_held_to_a_form(client):
    choice = ask(client, extra_body={"guided_choice": ["yes", "no", "perhaps"]})
    assert text_of(choice) in ("yes", "no", "perhaps")
    digits = ask(client, extra_body={"guided_regex": "[0-9]{4}"})
    assert text_of(digits).isdigit() and len(text_of(digits)) == 4
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}},
        "required": ["ok", "kind"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "f", "schema": schema}}
    for seed in range(3):
        answer = json.loads(text_of(ask(client, seed=seed, max_tokens=400, response_format=form)))
        assert isinstance(answer["ok"], bool) and answer["kind"] in ("a", "b")


def test_a_text_may_end_within_a_character(client):
    """The letter is two bytes, and two tokens of this vocabulary; mistral.rs says nothing of such an end."""
    forced = {"guided_regex": "\u00e9{3}"}
    for count, text in ((1, "\ufffd"), (2, "\u00e9"), (3, "\u00e9\ufffd")):
        answer = ask(client, max_tokens=count, logprobs=True, extra_body=forced)
        assert (text_of(answer), answer.choices[0].finish_reason) == (text, "length")
        assert answer.usage.completion_tokens == len(answer.choices[0].logprobs.content) == count
        assert streamed(client, max_tokens=count, extra_body=forced)[:2] == (text, "length")


def test_the_other_routes_of_conversations(server):
    question = [{"role": "user", "content": "Hello"}]
    message = server.post("/v1/messages", {"model": MODEL, "max_tokens": 9, "messages": question})
    assert message.status == 200, message.text
    message = json.loads(message.text)
    assert message["usage"]["output_tokens"] <= 9 and message["content"][0]["type"] == "text"
    response = server.post("/v1/responses", {"model": MODEL, "input": "Hello", "max_output_tokens": 16})
    assert response.status == 200, response.text
    response = json.loads(response.text)
    again = {"model": MODEL, "input": "And?", "max_output_tokens": 16, "previous_response_id": response["id"]}
    continued = json.loads(server.post("/v1/responses", again).text)
    assert continued["usage"]["input_tokens"] > response["usage"]["input_tokens"]
    for path in ("/generate", "/chat"):
        assert server.post(path, {"prompt": "Hello", "max_tokens": 4}).status == 200
    stream = server.post("/stream", {"prompt": "Hello", "max_tokens": 4}).text
    assert stream.rstrip().endswith("data: [DONE]")


def test_conversations_with_calls_are_rendered(client):
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "Looking.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Sunny."},
    ]
    with_tools = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER], max_tokens=5)
    without = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=5)
    assert with_tools.usage.prompt_tokens > without.usage.prompt_tokens + 30
    again = client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER], max_tokens=5)
    assert again.usage.prompt_tokens == with_tools.usage.prompt_tokens


def test_what_cannot_be_done_is_refused_by_name(server, client):
    for field, value in (("logit_bias", {"1": 1}), ("prompt_logprobs", 1), ("priority", 1), ("stop_token_ids", [1])):
        with pytest.raises(openai.BadRequestError) as refused:
            ask(client, extra_body={field: value})
        assert refused.value.param == field and "mistralrs" in refused.value.message
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, tools=[WEATHER], tool_choice="required")
    assert refused.value.param == "tool_choice"
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, max_tokens=4, extra_body={"min_tokens": 5})
    assert refused.value.param == "min_tokens" and "4 tokens" in refused.value.message
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=MODEL, prompt="Hello")
    assert refused.value.param == "prompt"
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, "word " * MAX_LEN)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, max_tokens=MAX_LEN)
    assert refused.value.code == "context_length_exceeded"
    first = [{"role": "assistant", "content": "I begin."}, {"role": "user", "content": "No."}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=MODEL, messages=first)
    assert "begins with its user" in refused.value.message and refused.value.param == "messages"
    assert server.get("/ready").status == 200


@pytest.mark.parametrize("reset", [False, True])
def test_clients_that_go_away_leave_nothing_behind(server, client, reset):
    before = server.metrics()
    # In decode, and waiting: on the CPU one runs at a time.
    for stream in (True, False):
        first = server.open("/v1/chat/completions", endless(stream=stream))
        wait_until(lambda: server.metrics()[DRAWN] > before[DRAWN] + 3, 30, "running")
        others = [server.open("/v1/chat/completions", endless(stream=i % 2 == 0)) for i in range(3)]
        wait_until(lambda: server.busy() == 4, 30, "all accepted")
        for connection in [first, *others]:
            abandon(connection, reset)
        server.assert_idle()
    after = server.metrics()

    def more(name):
        return after[name] - before[name]

    assert more("gossamer_api_requests_cancelled_total") == 8
    assert more(DRAWN) < MAX_LEN - 100
    assert text_of(ask(client))


def test_a_full_queue_answers_429_and_says_when_to_come_back(model):
    with Server(*flags(model, "--max-num-seqs", "1", "--max-waiting", "2", "--retry-after-ms", "3000")) as server:
        client = sdk(server)
        running = server.open("/v1/chat/completions", endless(stream=True))
        read_until(running, b'"content"')
        waiting = [server.open("/v1/chat/completions", endless(max_tokens=3)) for _ in range(2)]
        wait_until(lambda: server.busy() == 3, 30, "one running and two waiting")
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as refused:
                ask(client, stream=stream)
            assert refused.value.code == "engine_overloaded"
            assert refused.value.response.headers["retry-after"] == "3"
        info = json.loads(server.get("/info").text)
        assert (info["running"], info["waiting"]) == (1, 2)
        # One that waits goes away and makes room, without ever having run.
        abandon(waiting.pop(), reset=True)
        wait_until(lambda: server.busy() == 2, 15, "rid of one")
        abandon(running, reset=False)
        read_until(waiting[0], b'"usage"')
        waiting[0].close()
        assert ask(client, max_tokens=4).usage.completion_tokens <= 4
        server.assert_idle()


def test_who_waits_too_long_is_told(model):
    with Server(*flags(model, "--max-num-seqs", "1", "--queue-timeout-ms", "300")) as server:
        running = server.open("/v1/chat/completions", endless(stream=True))
        read_until(running, b'"content"')
        late = server.post("/v1/chat/completions", endless(max_tokens=3))
        assert late.status == 503 and "queue_timeout" in late.text
        abandon(running, reset=True)
        server.assert_idle()


def test_a_stop_waits_for_what_runs(model):
    with Server(*flags(model)) as server:
        running = server.open("/v1/chat/completions", endless(stream=True, max_tokens=60))
        read_until(running, b'"content"')
        server.signal()
        data = read_until(running, b"[DONE]")
        assert b'"finish_reason":"length"' in data
        assert server.wait() == 0, server.log()


def test_a_stop_does_not_wait_for_ever(model):
    with Server(*flags(model, "--shutdown-timeout-ms", "200")) as server:
        running = server.open("/v1/chat/completions", endless(stream=True))
        read_until(running, b'"content"')
        assert server.stop() == 0, server.log()
        data = read_until(running, b"shutting_down")
        assert b"[DONE]" not in data


def test_what_is_loaded_is_said(server):
    banner = "".join(server.stdout)
    assert "mistral.rs on cpu" in banner and "Qwen3ForCausalLM" in banner
    info = json.loads(server.get("/info").text)
    assert info["architecture"] == "Qwen3ForCausalLM" and info["max_sequence_len"] == MAX_LEN
    assert "kv_cache_tokens" not in info
    metrics = server.metrics()
    assert metrics["gossamer_api_time_to_first_token_seconds_count"] > 0
    assert metrics["gossamer_scheduler_queue_time_seconds_count"] > 0
    assert "Throughput" not in server.log()


def test_a_gguf_file_is_the_same_model(model, client):
    with Server(*flags(model / "model.gguf", "--model-name", MODEL)) as server:
        other = sdk(server)
        answer = ask(other)
        assert text_of(answer) == text_of(ask(other))
        assert answer.usage.prompt_tokens == ask(client).usage.prompt_tokens
        # The same weights, computed in another precision: what is likeliest is the same at first.
        first = ask(other, temperature=0, max_tokens=1)
        assert text_of(first) == text_of(ask(client, temperature=0, max_tokens=1))
        assert "qwen3" in "".join(server.stdout)


def test_gpt_oss_is_refused_before_a_weight_is_read(model, tmp_path):
    folder = make(tmp_path / "oss", architecture="GptOssForCausalLM")
    (folder / "model.safetensors").write_bytes(b"not weights")
    run = gossamer("serve", "--port", "0", *flags(folder))
    assert run.returncode == 1
    for part in ("GPT-OSS", "<|channel|>", "equal length", "--engine local"):
        assert part in run.stderr, run.stderr


def test_a_model_is_needed_and_must_be_one(tmp_path):
    run = gossamer("serve", "--port", "0", "--engine", "mistralrs")
    assert run.returncode == 2 and "model.path" in run.stderr
    run = gossamer("serve", "--port", "0", *flags(tmp_path))
    assert run.returncode == 1 and "config.json" in run.stderr
