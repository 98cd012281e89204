// OpenAI's SDK for Node. Every body and chunk is held to the SDK's own types by schemas made from them.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import type { ChatCompletionMessageParam, ChatCompletionTool } from "openai/resources/chat/completions";
import { ASK_SUM, ASK_WEATHER, CAPITAL, KEY, LIMITED_KEY, MODEL, TOO_LONG, URL, WRONG_KEY, closedPortUrl, isWeatherAnswer, weather } from "../shared/gossamer_server.ts";
import { assertIs } from "./schemas.ts";

const client = new OpenAI({ baseURL: URL, apiKey: KEY, maxRetries: 0, timeout: 120_000 });
const CHAT = { model: MODEL, temperature: 0, max_completion_tokens: 400 };
const user = (content: string): ChatCompletionMessageParam[] => [{ role: "user", content }];

const WEATHER: ChatCompletionTool = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Get the current weather for a city.",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};

test("the schemas notice what is missing or mistyped", () => {
  assert.throws(() => assertIs("model", { id: "a", created: 1, owned_by: "b" }), /object/);
  assert.throws(() => assertIs("chatCompletion", { id: "a", created: "1", model: "b", object: "chat.completion", choices: [] }), /created/);
});

test("chat: an answer with usage", async () => {
  const answer = await client.chat.completions.create({ messages: user(CAPITAL), reasoning_effort: "high", ...CHAT });
  assertIs("chatCompletion", answer);
  const [choice] = answer.choices;
  assert.match(choice.message.content ?? "", /Paris/);
  assert.equal(choice.finish_reason, "stop");
  assert.ok((choice.message as { reasoning?: string }).reasoning);
  const usage = answer.usage!;
  assert.equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens);
  assert.ok(usage.completion_tokens_details!.reasoning_tokens! > 0);
  assert.ok(answer._request_id);
});

test("chat: the dialogue is remembered", async () => {
  const messages = user("My name is Anna.");
  const first = await client.chat.completions.create({ messages, ...CHAT });
  messages.push(first.choices[0].message, ...user("What is my name?"));
  const second = await client.chat.completions.create({ messages, ...CHAT });
  assert.match(second.choices[0].message.content ?? "", /Anna/);
});

test("chat: choices, log-probabilities, length and stop", async () => {
  const answer = await client.chat.completions.create({ messages: user(CAPITAL), n: 2, logprobs: true, top_logprobs: 2, ...CHAT });
  assertIs("chatCompletion", answer);
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1]);
  for (const { logprobs, message } of answer.choices) {
    const bytes = logprobs!.content!.flatMap((token) => token.bytes!);
    assert.equal(Buffer.from(bytes).toString(), message.content);
  }
  const cut = await client.chat.completions.create({ messages: user(CAPITAL), ...CHAT, max_completion_tokens: 3 });
  assert.equal(cut.choices[0].finish_reason, "length");
  const stopped = await client.chat.completions.create({ messages: user(CAPITAL), stop: ["Paris"], ...CHAT });
  assert.ok(stopped.choices[0].message.content!.endsWith(" is "));
});

test("chat: raw completions and models", async () => {
  const answer = await client.completions.create({ model: MODEL, prompt: ["Hello", "The capital of"], max_tokens: 4, temperature: 0, logprobs: 2 });
  assertIs("completion", answer);
  assert.deepEqual(answer.choices.map(({ index, finish_reason }) => [index, finish_reason]), [[0, "length"], [1, "length"]]);
  const models = [];
  for await (const model of client.models.list()) models.push(model);
  assert.deepEqual(models.map((model) => model.id), [MODEL]);
  assertIs("model", models[0]);
  assertIs("model", await client.models.retrieve(MODEL));
});

test("stream: the whole answer in pieces", async () => {
  const whole = await client.chat.completions.create({ messages: user(CAPITAL), ...CHAT });
  const stream = await client.chat.completions.create({ messages: user(CAPITAL), stream: true, stream_options: { include_usage: true }, ...CHAT });
  const chunks = [];
  for await (const chunk of stream) {
    assertIs("chatCompletionChunk", chunk);
    chunks.push(chunk);
  }
  const choices = chunks.flatMap((chunk) => chunk.choices);
  assert.equal(choices.map((choice) => choice.delta.content ?? "").join(""), whole.choices[0].message.content);
  assert.equal(choices[0].delta.role, "assistant");
  assert.deepEqual(choices.flatMap((choice) => choice.finish_reason ?? []), ["stop"]);
  assert.equal(chunks.at(-1)!.usage!.completion_tokens, whole.usage!.completion_tokens);
});

test("stream: the helper's events and final completion", async () => {
  const stream = client.chat.completions.stream({ messages: user(CAPITAL), stream_options: { include_usage: true }, ...CHAT });
  let text = "";
  stream.on("content", (delta) => (text += delta));
  const final = await stream.finalChatCompletion();
  assertIs("chatCompletion", final);
  assert.match(text, /Paris/);
  assert.equal(final.choices[0].message.content, text);
  assert.ok(final.usage!.total_tokens > 0);
});

test("stream: it can be left early", async () => {
  const stream = await client.chat.completions.create({ messages: user(CAPITAL), stream: true, ...CHAT });
  for await (const chunk of stream) {
    if (chunk.choices[0].delta.content) break;
  }
  assert.ok(stream.controller.signal.aborted);
  const after = await client.chat.completions.create({ messages: user(CAPITAL), ...CHAT });
  assert.match(after.choices[0].message.content ?? "", /Paris/);
});

test("tools: the loop", async () => {
  const messages = user(ASK_WEATHER);
  const first = await client.chat.completions.create({ messages, tools: [WEATHER], parallel_tool_calls: false, ...CHAT });
  assertIs("chatCompletion", first);
  const [{ message, finish_reason }] = first.choices;
  assert.equal(finish_reason, "tool_calls");
  const [call] = message.tool_calls!;
  assert(call.type === "function");
  assert.equal(call.function.name, "get_weather");
  const result = weather(JSON.parse(call.function.arguments).city);
  messages.push(message, { role: "tool", tool_call_id: call.id, content: JSON.stringify(result) });
  const last = await client.chat.completions.create({ messages, tools: [WEATHER], tool_choice: "auto", ...CHAT });
  assert.equal(last.choices[0].finish_reason, "stop");
  assert.ok(isWeatherAnswer(last.choices[0].message.content!));
});

test("tools: the SDK's own loop, streamed", async () => {
  const function_ = {
    name: "get_weather",
    description: "Get the current weather for a city.",
    parameters: WEATHER.function.parameters as object,
    parse: JSON.parse,
    function: ({ city }: { city: string }) => weather(city),
  };
  const tools = [{ type: "function" as const, function: function_ }];
  const runner = client.chat.completions.runTools({ messages: user(ASK_WEATHER), tools, stream: true, ...CHAT });
  const calls: string[] = [];
  runner.on("functionToolCall", (call) => calls.push(call.arguments));
  assert.ok(isWeatherAnswer((await runner.finalContent())!));
  assert.deepEqual(calls.map((text) => JSON.parse(text)), [{ city: "Paris" }]);
});

test("tools: a streamed call, declared strict", async () => {
  const add: ChatCompletionTool = {
    type: "function",
    function: {
      name: "add",
      description: "Add two numbers.",
      strict: true,
      parameters: {
        type: "object",
        properties: { a: { type: "number" }, b: { type: "number" } },
        required: ["a", "b"],
        additionalProperties: false,
      },
    },
  };
  const final = await client.chat.completions.stream({ messages: user(ASK_SUM), tools: [add], ...CHAT }).finalChatCompletion();
  const [call] = final.choices[0].message.tool_calls!;
  assert(call.type === "function");
  assert.deepEqual([call.function.name, JSON.parse(call.function.arguments)], ["add", { a: 17, b: 25 }]);
});

for (const stream of [false, true]) {
  test(`errors: class, code and param, stream ${stream}`, async () => {
    const ask = (change: object) => client.chat.completions.create({ messages: user("Hello!"), stream, ...CHAT, ...change } as never);
    await assert.rejects(ask({ model: "gpt-5" }), (error) => {
      assert(error instanceof OpenAI.NotFoundError);
      assert.deepEqual([error.status, error.code], [404, "model_not_found"]);
      return Boolean(error.requestID);
    });
    const bad = async (change: object, expected: object) =>
      assert.rejects(ask(change), (error) => {
        assert(error instanceof OpenAI.BadRequestError);
        assert.partialDeepStrictEqual({ ...error, type: error.type }, { type: "invalid_request_error", ...expected });
        return true;
      });
    await bad({ temperature: 3 }, { param: "temperature" });
    await bad({ messages: [{ role: "robot", content: "Hello!" }] }, { param: "messages[0].role" });
    await bad({ frobnicate: 1 }, { param: "frobnicate", code: "unknown_parameter" });
    await bad({ messages: user(TOO_LONG) }, { code: "context_length_exceeded" });
  });
}

test("errors: keys", async () => {
  const ask = (apiKey: string) => new OpenAI({ baseURL: URL, apiKey, maxRetries: 0 }).chat.completions.create({ messages: user("Hello!"), ...CHAT });
  await assert.rejects(ask(WRONG_KEY), (error) => error instanceof OpenAI.AuthenticationError && error.code === "invalid_api_key");
  // The other suites share the key: the first request may be one too many already.
  await assert.rejects(Promise.all([ask(LIMITED_KEY), ask(LIMITED_KEY)]), (error) => {
    assert(error instanceof OpenAI.RateLimitError);
    assert.equal(error.code, "rate_limit_exceeded");
    return Number(error.headers.get("retry-after")) >= 1;
  });
});

test("errors: unknown routes", async () => {
  await assert.rejects(client.embeddings.create({ model: MODEL, input: "Hello" }), OpenAI.NotFoundError);
});

test("errors: the connection", async () => {
  const nobody = new OpenAI({ baseURL: await closedPortUrl(), apiKey: KEY, maxRetries: 0 });
  await assert.rejects(async () => await nobody.models.list(), OpenAI.APIConnectionError);
  const hasty = new OpenAI({ baseURL: URL, apiKey: KEY, maxRetries: 0, timeout: 50 });
  const long = { model: MODEL, prompt: "Hello", max_tokens: 3000, ignore_eos: true };
  await assert.rejects(async () => await hasty.completions.create(long), OpenAI.APIConnectionTimeoutError);
});
