// Where the server is, and the few things that the embedded model can do, for all suites on Node.
//
// Knows no client. The runner (`run.py`) starts the server and sets the variables.

import assert from "node:assert/strict";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";

function variable(name: string): string {
  const value = process.env[name];
  assert(value, `${name} is not set`);
  return value;
}

export const URL = `${variable("CLIENTS_URL")}/v1`;
export const MODEL = variable("CLIENTS_MODEL");
export const KEY = variable("CLIENTS_KEY");
/** Good for one request per minute. */
export const LIMITED_KEY = variable("CLIENTS_LIMITED_KEY");
export const WRONG_KEY = "sk-gossamer-no-such-key";

export const CAPITAL = "What is the capital of France?";
export const ASK_WEATHER = "What is the weather in Paris?";
export const ASK_SUM = "What is 17 + 25?";
export const TOO_LONG = "green river ".repeat(70_000);

/** The result that a tool gives to the model. */
export function weather(city: string) {
  assert.equal(city, "Paris");
  return { temperature: 21, condition: "sunny" };
}

/** Whether the model told what `weather` said, and nothing of harmony leaked. */
export function isWeatherAnswer(text: string): boolean {
  return text.includes("21") && text.includes("sunny") && !text.includes("<|");
}

/** A URL that nobody listens on. */
export async function closedPortUrl(): Promise<string> {
  const listener = createServer();
  await new Promise<void>((done) => listener.listen(0, "127.0.0.1", done));
  const { port } = listener.address() as AddressInfo;
  await new Promise((done) => listener.close(done));
  return `http://127.0.0.1:${port}/v1`;
}
