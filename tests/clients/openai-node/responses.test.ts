// The Responses API through OpenAI's SDK for Node. Every body and event is held to the SDK's own types by schemas made from them.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import type { FunctionTool, Response, ResponseCreateParamsNonStreaming, ResponseInput, ResponseStreamEvent } from "openai/resources/responses/responses";
import { ASK_WEATHER, CAPITAL, KEY, LIMITED_KEY, MODEL, TOO_LONG, URL, WRONG_KEY, isWeatherAnswer, weather } from "../shared/gossamer_server.ts";
import { assertIs } from "./schemas.ts";

const client = new OpenAI({ baseURL: URL, apiKey: KEY, maxRetries: 0, timeout: 120_000 });
const ASK = { model: MODEL, temperature: 0, max_output_tokens: 400 };
// Nothing but its bound ends an answer.
const ENDLESS = { logit_bias: { "200002": -100, "200007": -100, "200012": -100, "199999": -100 } } as object;
const ENDS = ["response.completed", "response.incomplete", "response.failed"];

const WEATHER: FunctionTool = {
  type: "function",
  name: "get_weather",
  description: "Get the current weather for a city.",
  strict: false,
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};

async function create(params: Omit<ResponseCreateParamsNonStreaming, "model">) {
  const response = await client.responses.create({ ...ASK, ...params });
  assertIs("response", response);
  for (const item of response.output) assertIs("responseItem", item);
  return response;
}

/** All events of a stream: each of its type, numbered without a gap, with one end, which is the last. */
async function checked(stream: AsyncIterable<ResponseStreamEvent>, from = 0) {
  const events: ResponseStreamEvent[] = [];
  for await (const event of stream) {
    assertIs("responseEvent", event);
    events.push(event);
  }
  assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, i) => from + i));
  assert.deepEqual(events.filter(({ type }) => ENDS.includes(type)), [events.at(-1)]);
  return events;
}

/** What two responses to the same request have in common. */
function withoutIds(response: Response) {
  const { id, created_at, completed_at, usage, output, output_text, ...rest } = response as Response & { _request_id?: unknown };
  delete rest._request_id;
  return { ...rest, output: output.map(({ id, call_id, ...item }: any) => item) };
}

test("the schemas notice what is missing or mistyped in responses", () => {
  assert.throws(() => assertIs("responseEvent", { type: "response.completed", sequence_number: 1 }), /response/);
  assert.throws(() => assertIs("response", { id: "resp_1", object: "response", created_at: 1, output: {} }), /output/);
});

test("responses: reasoning, answer and usage", async () => {
  const response = await create({ input: CAPITAL, reasoning: { effort: "high", summary: "auto" } });
  const [reasoning, message] = response.output;
  assert(reasoning.type === "reasoning" && message.type === "message");
  assert.match(response.output_text, /Paris/);
  assert.equal(reasoning.content![0].type, "reasoning_text");
  assert.equal(response.status, "completed");
  const usage = response.usage!;
  assert.equal(usage.total_tokens, usage.input_tokens + usage.output_tokens);
  assert.ok(usage.output_tokens_details.reasoning_tokens > 0);
  assert.ok(response._request_id);
});

test("responses: the dialogue is remembered, by id and by items", async () => {
  const first = await create({ input: "My name is Anna." });
  const second = await create({ input: "What is my name?", previous_response_id: first.id });
  assert.match(second.output_text, /Anna/);
  const input: ResponseInput = [{ role: "user", content: "My name is Anna." }, ...first.output, { role: "user", content: "What is my name?" }];
  const third = await create({ input, store: false });
  assert.equal(third.output_text, second.output_text);
  await assert.rejects(client.responses.retrieve(third.id), OpenAI.NotFoundError);
});

test("responses: streamed, it is the whole in pieces", async () => {
  const whole = await create({ input: CAPITAL });
  const events = await checked(await client.responses.create({ input: CAPITAL, stream: true, ...ASK }));
  const text = events.map((event) => (event.type === "response.output_text.delta" ? event.delta : "")).join("");
  const thought = events.map((event) => (event.type === "response.reasoning_text.delta" ? event.delta : "")).join("");
  assert.equal(text, whole.output_text);
  assert(whole.output[0].type === "reasoning");
  assert.equal(thought, whole.output[0].content![0].text);
  const last = events.at(-1)!;
  assert(last.type === "response.completed");
  assert.deepEqual(withoutIds(last.response), withoutIds(whole));
});

test("responses: the helper's events and final response", async () => {
  const stream = client.responses.stream({ input: CAPITAL, ...ASK });
  let text = "";
  stream.on("response.output_text.delta", ({ delta, snapshot }) => {
    text += delta;
    assert.equal(snapshot, text);
  });
  const final = await stream.finalResponse();
  assertIs("response", final);
  assert.match(text, /Paris/);
  assert.equal(final.output_text, text);
});

test("responses: log-probabilities and a bound", async () => {
  const response = await create({ input: CAPITAL, include: ["message.output_text.logprobs"], top_logprobs: 2 });
  const message = response.output.at(-1)!;
  assert(message.type === "message" && message.content[0].type === "output_text");
  assert.equal(message.content[0].logprobs!.map(({ token }) => token).join(""), message.content[0].text);
  const cut = await create({ input: CAPITAL, max_output_tokens: 8 });
  assert.deepEqual([cut.status, cut.incomplete_details!.reason, cut.usage!.output_tokens], ["incomplete", "max_output_tokens", 8]);
});

test("responses: an answer held to a schema", async () => {
  const schema = {
    type: "object",
    properties: { city: { enum: ["Paris", "Rome"] }, in_europe: { type: "boolean" } },
    required: ["city", "in_europe"],
    additionalProperties: false,
  };
  const format = { type: "json_schema" as const, name: "capital", strict: true, schema };
  const parsed = await client.responses.parse({ input: "Tell me about Paris.", text: { format }, ...ASK });
  assertIs("response", parsed);
  const answer = parsed.output_parsed as unknown as { city: string; in_europe: boolean };
  assert.ok(["Paris", "Rome"].includes(answer.city) && typeof answer.in_europe === "boolean");
});

for (const byId of [true, false]) {
  test(`responses: the tool loop, ${byId ? "by id" : "with items"}`, async () => {
    const first = await create({ input: ASK_WEATHER, tools: [WEATHER], parallel_tool_calls: false });
    const call = first.output.at(-1)!;
    assert(call.type === "function_call");
    assert.equal(call.name, "get_weather");
    const output = JSON.stringify(weather(JSON.parse(call.arguments).city));
    const result = { type: "function_call_output" as const, call_id: call.call_id, output };
    const more = byId
      ? { input: [result], previous_response_id: first.id }
      : { input: [{ role: "user" as const, content: ASK_WEATHER }, ...first.output, result] };
    const last = await create({ tools: [WEATHER], tool_choice: "auto", ...more });
    assert.ok(isWeatherAnswer(last.output_text));
  });
}

test("responses: a streamed call, declared strict", async () => {
  const tool = { ...WEATHER, strict: true, parameters: { ...WEATHER.parameters, additionalProperties: false } };
  const stream = client.responses.stream({ input: ASK_WEATHER, tools: [tool], ...ASK });
  let snapshot = "";
  stream.on("response.function_call_arguments.delta", (event) => (snapshot = event.snapshot));
  const events = await checked(stream);
  const call = (await stream.finalResponse()).output.at(-1)!;
  assert(call.type === "function_call");
  assert.deepEqual(JSON.parse(call.arguments), { city: "Paris" });
  assert.equal(snapshot, call.arguments);
  const done = events.filter((event) => event.type === "response.function_call_arguments.done");
  assert.deepEqual(done.map((event) => [event.name, event.arguments]), [["get_weather", call.arguments]]);
});

test("responses: fetched, listed and deleted", async () => {
  const response = await create({ input: [{ role: "user", content: "Hello!" }, { role: "user", content: CAPITAL }] });
  const fetched = await client.responses.retrieve(response.id);
  assertIs("response", fetched);
  assert.deepEqual(fetched.output, response.output);
  const items = [];
  for await (const item of client.responses.inputItems.list(response.id, { order: "asc", limit: 1 })) {
    assertIs("responseItem", item);
    items.push(item);
  }
  assert.equal(items.length, 2);
  await client.responses.delete(response.id);
  await assert.rejects(client.responses.retrieve(response.id), OpenAI.NotFoundError);
});

test("responses: in the background, fetched and cancelled", async () => {
  let response = await create({ input: CAPITAL, background: true });
  const deadline = Date.now() + 100_000;
  while (response.status === "queued" || response.status === "in_progress") {
    assert.ok(Date.now() < deadline);
    await new Promise((done) => setTimeout(done, 50));
    response = await client.responses.retrieve(response.id);
  }
  assertIs("response", response);
  assert.match(response.output_text, /Paris/);
  const running = await create({ input: "Go on.", background: true, max_output_tokens: 3000, ...ENDLESS });
  const cancelled = await client.responses.cancel(running.id);
  assertIs("sentResponse", cancelled);
  assert.equal(cancelled.status, "cancelled");
});

test("responses: a stream of the background is read again from anywhere", async () => {
  const stream = await client.responses.create({ input: CAPITAL, background: true, stream: true, ...ASK });
  const seen: ResponseStreamEvent[] = [];
  for await (const event of stream) {
    seen.push(event);
    if (event.type === "response.output_item.added") break;
  }
  assert(seen[0].type === "response.created");
  const { id } = seen[0].response;
  const after = seen.at(-1)!.sequence_number;
  const rest = await checked(await client.responses.retrieve(id, { stream: true, starting_after: after }), after + 1);
  assert.equal(rest.at(-1)!.type, "response.completed");
  const final = await client.responses.stream({ response_id: id, starting_after: after }).finalResponse();
  assert.match(final.output_text, /Paris/);
});

for (const stream of [false, true]) {
  test(`responses: errors have class, code and param, stream ${stream}`, async () => {
    const bad = async (change: object, expected: object) =>
      assert.rejects(client.responses.create({ input: "Hello!", stream, ...ASK, ...change } as never), (error) => {
        assert(error instanceof OpenAI.BadRequestError);
        assert.partialDeepStrictEqual({ ...error, type: error.type }, { type: "invalid_request_error", ...expected });
        return Boolean(error.requestID);
      });
    await bad({ temperature: 3 }, { param: "temperature" });
    await bad({ input: [{ role: "robot", content: "Hello!" }] }, { param: "input[0].role" });
    await bad({ tools: [{ type: "file_search", vector_store_ids: [] }] }, { param: "tools[0].type", code: "unsupported_value" });
    await bad({ frobnicate: 1 }, { param: "frobnicate", code: "unknown_parameter" });
    await bad({ input: TOO_LONG }, { code: "context_length_exceeded" });
    await bad({ previous_response_id: "resp_none" }, { param: "previous_response_id", code: "previous_response_not_found" });
  });
}

test("responses: keys", async () => {
  const ask = (apiKey: string) => new OpenAI({ baseURL: URL, apiKey, maxRetries: 0 }).responses.create({ input: "Hello!", ...ASK });
  await assert.rejects(ask(WRONG_KEY), OpenAI.AuthenticationError);
  // The other suites share the key: the first request may be one too many already.
  await assert.rejects(Promise.all([ask(LIMITED_KEY), ask(LIMITED_KEY)]), OpenAI.RateLimitError);
});
