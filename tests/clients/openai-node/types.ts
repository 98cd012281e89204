// The SDK's own types that our answers must satisfy; `schemas.ts` turns them into JSON schemas.

import type OpenAI from "openai";

export interface Answers {
  chatCompletion: OpenAI.Chat.ChatCompletion;
  chatCompletionChunk: OpenAI.Chat.ChatCompletionChunk;
  completion: OpenAI.Completion;
  model: OpenAI.Model;
  response: OpenAI.Responses.Response;
  sentResponse: Omit<OpenAI.Responses.Response, "output_text">;
  responseEvent: Sent<OpenAI.Responses.ResponseStreamEvent>;
  responseItem: OpenAI.Responses.ResponseItem;
}

/** As it is sent: the SDK itself adds `output_text`, and not to the responses in events. */
type Sent<Event> = Event extends { response: OpenAI.Responses.Response }
  ? Omit<Event, "response"> & { response: Omit<OpenAI.Responses.Response, "output_text"> }
  : Event;
