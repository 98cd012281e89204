// Vercel's AI SDK, by both providers that its users point at such a server: `openai-compatible`, and `openai` on chat.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { ASK_WEATHER, CAPITAL, KEY, LIMITED_KEY, MODEL, TOO_LONG, URL, WRONG_KEY, closedPortUrl, isWeatherAnswer, weather } from "../shared/gossamer_server.ts";

const compatible = (baseURL = URL, apiKey = KEY) => createOpenAICompatible({ name: "gossamer", baseURL, apiKey, includeUsage: true });
const openai = createOpenAI({ baseURL: URL, apiKey: KEY });
const SETTINGS = { temperature: 0, maxOutputTokens: 400, maxRetries: 0 };

const get_weather = tool({
  description: "Get the current weather for a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => weather(city),
});

for (const [name, model] of [["openai-compatible", compatible()(MODEL)], ["openai", openai.chat(MODEL)]] as const) {
  test(`chat: an answer with usage, ${name}`, async () => {
    const result = await generateText({ model, prompt: CAPITAL, ...SETTINGS });
    assert.match(result.text, /Paris/);
    assert.equal(result.finishReason, "stop");
    assert.equal(result.usage.totalTokens, result.usage.inputTokens! + result.usage.outputTokens!);
    assert.equal(result.response.modelId, MODEL);
    assert.deepEqual(result.warnings ?? [], []);
  });

  test(`chat: the dialogue is remembered, ${name}`, async () => {
    const first = await generateText({ model, system: "Be brief.", prompt: "My name is Anna.", ...SETTINGS });
    const messages = [
      { role: "user" as const, content: "My name is Anna." },
      ...first.response.messages,
      { role: "user" as const, content: "What is my name?" },
    ];
    assert.match((await generateText({ model, messages, ...SETTINGS })).text, /Anna/);
  });

  test(`stream: the whole answer in pieces, ${name}`, async () => {
    const whole = await generateText({ model, prompt: CAPITAL, ...SETTINGS });
    const result = streamText({ model, prompt: CAPITAL, ...SETTINGS });
    const deltas = [];
    for await (const delta of result.textStream) deltas.push(delta);
    assert.ok(deltas.length > 3);
    assert.equal(deltas.join(""), whole.text);
    assert.equal(await result.finishReason, "stop");
    assert.equal((await result.usage).outputTokens, whole.usage.outputTokens);
  });

  test(`tools: the SDK's loop, ${name}`, async () => {
    const result = await generateText({ model, prompt: ASK_WEATHER, tools: { get_weather }, stopWhen: stepCountIs(3), ...SETTINGS });
    assert.ok(isWeatherAnswer(result.text));
    assert.deepEqual(result.steps.map((step) => step.finishReason), ["tool-calls", "stop"]);
    assert.deepEqual(result.steps[0].toolCalls.map(({ toolName, input }) => [toolName, input]), [["get_weather", { city: "Paris" }]]);
  });

  test(`tools: the SDK's loop, streamed, ${name}`, async () => {
    const result = streamText({ model, prompt: ASK_WEATHER, tools: { get_weather }, stopWhen: stepCountIs(3), ...SETTINGS });
    const kinds = new Set<string>();
    for await (const part of result.fullStream) kinds.add(part.type);
    for (const kind of ["tool-call", "tool-result", "text-delta", "finish"]) assert.ok(kinds.has(kind), kind);
    assert.ok(!kinds.has("error") && !kinds.has("tool-error"));
    assert.ok(isWeatherAnswer(await result.text));
  });

  test(`errors: status, body and what may be retried, ${name}`, async () => {
    const rejected = (change: object, check: (error: APICallError) => void) =>
      assert.rejects(generateText({ model, prompt: "Hello!", ...SETTINGS, ...change }), (error) => {
        assert(APICallError.isInstance(error), String(error));
        assert.equal(error.isRetryable, false);
        check(error);
        return true;
      });
    await rejected({ temperature: 3 }, (error) => {
      assert.equal(error.statusCode, 400);
      assert.equal(JSON.parse(error.responseBody!).error.param, "temperature");
      assert.match(error.message, /temperature/);
    });
    await rejected({ prompt: TOO_LONG }, (error) => {
      assert.equal(JSON.parse(error.responseBody!).error.code, "context_length_exceeded");
    });
  });
}

test("chat: reasoning is a part of its own", async () => {
  const result = await generateText({
    model: compatible()(MODEL),
    prompt: CAPITAL,
    providerOptions: { gossamer: { reasoningEffort: "high" } },
    ...SETTINGS,
  });
  assert.match(result.reasoningText ?? "", /France/);
  assert.ok(!result.text.includes(result.reasoningText!));
  assert.ok((result.usage.outputTokenDetails?.reasoningTokens ?? 0) > 0);
});

test("stream: an error before the first event is an error of the call", async () => {
  const errors: unknown[] = [];
  const result = streamText({ model: compatible()("no-such-model"), prompt: "Hello!", onError: ({ error }) => void errors.push(error), ...SETTINGS });
  await assert.rejects(async () => await result.text);
  assert.ok(APICallError.isInstance(errors[0]) && errors[0].statusCode === 404);
});

test("errors: a wrong key is not retried, a key over its limit is", async () => {
  const ask = (key: string) => generateText({ model: compatible(URL, key)(MODEL), prompt: "Hello!", ...SETTINGS });
  const checks = (status: number, retryable: boolean) => (error: unknown) => {
    assert(APICallError.isInstance(error));
    assert.deepEqual([error.statusCode, error.isRetryable], [status, retryable]);
    return true;
  };
  await assert.rejects(ask(WRONG_KEY), checks(401, false));
  await assert.rejects(Promise.all([ask(LIMITED_KEY), ask(LIMITED_KEY)]), checks(429, true));
});

test("errors: the model does not exist, nobody listens", async () => {
  await assert.rejects(generateText({ model: compatible()("no-such-model"), prompt: "Hello!", ...SETTINGS }), (error) => {
    assert(APICallError.isInstance(error));
    assert.deepEqual([error.statusCode, error.isRetryable], [404, false]);
    return JSON.parse(error.responseBody!).error.code === "model_not_found";
  });
  const nobody = compatible(await closedPortUrl())(MODEL);
  await assert.rejects(generateText({ model: nobody, prompt: "Hello!", ...SETTINGS }), (error) => {
    assert(APICallError.isInstance(error));
    return error.isRetryable && error.statusCode === undefined;
  });
});
