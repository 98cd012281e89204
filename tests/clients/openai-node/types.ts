// The SDK's own types that our answers must satisfy; `schemas.ts` turns them into JSON schemas.

import type OpenAI from "openai";

export interface Answers {
  chatCompletion: OpenAI.Chat.ChatCompletion;
  chatCompletionChunk: OpenAI.Chat.ChatCompletionChunk;
  completion: OpenAI.Completion;
  model: OpenAI.Model;
}
