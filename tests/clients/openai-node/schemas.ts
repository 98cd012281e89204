// The SDK does not check at run time what its types say, so we do: JSON schemas made from its type declarations, and Ajv.
//
// Fields that the types do not have, as our `reasoning`, are allowed: TypeScript allows them too.

import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import Ajv from "ajv";
import { createGenerator } from "ts-json-schema-generator";
import type { Answers } from "./types.ts";

const generator = createGenerator({
  path: fileURLToPath(new URL("types.ts", import.meta.url)),
  tsconfig: fileURLToPath(new URL("tsconfig.json", import.meta.url)),
  type: "Answers",
  additionalProperties: true,
  skipTypeCheck: true,
});
const schema = generator.createSchema("Answers");
const ajv = new Ajv.default({ allErrors: true, strict: false });
ajv.addSchema(schema, "sdk");

/** Fails unless `value` is what the SDK's type says. */
export function assertIs(name: keyof Answers, value: unknown): void {
  const validate = ajv.getSchema(`sdk#/definitions/Answers/properties/${name}`);
  assert(validate, `no schema for ${name}`);
  if (validate(value)) return;
  // Of a union, all that each of its types misses is an error.
  const errors = ajv.errorsText(validate.errors?.slice(0, 20));
  assert.fail(`not a ${name}: ${errors}\n${JSON.stringify(value)}`);
}
