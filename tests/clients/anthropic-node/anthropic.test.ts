// Anthropic's SDK for Node: answers, streams, a tool loop, counts and errors.

import assert from "node:assert/strict";
import { test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import { ASK_WEATHER, CAPITAL, KEY, LIMITED_KEY, MODEL, TOO_LONG, URL, WRONG_KEY, closedPortUrl, isWeatherAnswer, weather } from "../shared/gossamer_server.ts";

// The SDK adds the version itself.
const baseURL = URL.replace(/\/v1$/, "");
const client = new Anthropic({ baseURL, apiKey: KEY, maxRetries: 0, timeout: 120_000 });
const MESSAGE = { model: MODEL, max_tokens: 400, temperature: 0 };
const user = (content: string): Anthropic.MessageParam[] => [{ role: "user", content }];
const textOf = (message: Anthropic.Message) => message.content.map((block) => (block.type === "text" ? block.text : "")).join("");

const WEATHER: Anthropic.Tool = {
  name: "get_weather",
  description: "Get the current weather for a city.",
  input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};

test("chat: an answer with usage", async () => {
  const message = await client.messages.create({ messages: user(CAPITAL), ...MESSAGE });
  assert.match(textOf(message), /Paris/);
  assert.deepEqual([message.type, message.role, message.model, message.stop_reason], ["message", "assistant", MODEL, "end_turn"]);
  assert.ok(message.usage.output_tokens > 0 && message._request_id);
});

test("chat: thinking is a block with a signature", async () => {
  const message = await client.messages.create({ messages: user(CAPITAL), thinking: { type: "adaptive" }, ...MESSAGE });
  const [thought, answer] = message.content;
  assert.ok(thought.type === "thinking" && thought.thinking && thought.signature);
  assert.ok(answer.type === "text");
});

test("chat: tokens are counted", async () => {
  const count = await client.messages.countTokens({ model: MODEL, messages: user(CAPITAL) });
  const { usage } = await client.messages.create({ messages: user(CAPITAL), ...MESSAGE });
  assert.equal(count.input_tokens, usage.input_tokens + (usage.cache_read_input_tokens ?? 0));
});

test("stream: the helper accumulates the whole message", async () => {
  const request = { messages: user(CAPITAL), thinking: { type: "adaptive" as const }, ...MESSAGE };
  const whole = await client.messages.create(request);
  const stream = client.messages.stream(request);
  let text = "";
  stream.on("text", (delta) => (text += delta));
  const final = await stream.finalMessage();
  assert.equal(textOf(final), textOf(whole));
  assert.equal(text, textOf(whole));
  assert.equal(final.usage.output_tokens, whole.usage.output_tokens);
  assert.equal(final.stop_reason, "end_turn");
});

test("stream: stop sequences and lengths", async () => {
  const stopped = await client.messages.stream({ messages: user(CAPITAL), stop_sequences: ["Paris"], ...MESSAGE }).finalMessage();
  assert.deepEqual([stopped.stop_reason, stopped.stop_sequence], ["stop_sequence", "Paris"]);
  const cut = await client.messages.stream({ messages: user(CAPITAL), ...MESSAGE, max_tokens: 3 }).finalMessage();
  assert.equal(cut.stop_reason, "max_tokens");
});

test("tools: the loop, streamed", async () => {
  const messages = user(ASK_WEATHER);
  const message = await client.messages.stream({ messages, tools: [WEATHER], ...MESSAGE }).finalMessage();
  assert.equal(message.stop_reason, "tool_use");
  const call = message.content.at(-1)!;
  assert.ok(call.type === "tool_use");
  assert.deepEqual([call.name, call.input], ["get_weather", { city: "Paris" }]);
  const result = JSON.stringify(weather((call.input as { city: string }).city));
  messages.push({ role: "assistant", content: message.content });
  messages.push({ role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: result }] });
  const last = await client.messages.create({ messages, tools: [WEATHER], ...MESSAGE });
  assert.ok(isWeatherAnswer(textOf(last)), textOf(last));
});

test("errors: class, type and message", async () => {
  const refused = async (change: object) => {
    const error = await client.messages.create({ messages: user("Hello!"), ...MESSAGE, ...change }).then(() => null, (error) => error);
    assert.ok(error instanceof Anthropic.APIError && error.requestID, String(error));
    return error;
  };
  assert.ok((await refused({ model: "claude-opus-4-1" })) instanceof Anthropic.NotFoundError);
  const hot = await refused({ temperature: 3 });
  assert.ok(hot instanceof Anthropic.BadRequestError && /'temperature'/.test(hot.message));
  assert.match((await refused({ messages: user(TOO_LONG) })).message, /prompt is too long/);
});

test("errors: keys and connections", async () => {
  const ask = (settings: object) => new Anthropic({ baseURL, apiKey: KEY, maxRetries: 0, ...settings }).messages.create({ messages: user("Hello!"), ...MESSAGE });
  await assert.rejects(ask({ apiKey: WRONG_KEY }), Anthropic.AuthenticationError);
  await assert.rejects(async () => {
    // The other suites share the key: the first request may be one too many already.
    await ask({ apiKey: LIMITED_KEY });
    await ask({ apiKey: LIMITED_KEY });
  }, Anthropic.RateLimitError);
  const closed = (await closedPortUrl()).replace(/\/v1$/, "");
  await assert.rejects(ask({ baseURL: closed }), Anthropic.APIConnectionError);
});
