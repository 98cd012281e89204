"""What Schemathesis cannot know of this server: which requests would take hours, and how our streams are described.

Invariant: a value that breaks the schema stays as it is; that such a request is refused is what is tested.
"""

import json
import os
import random

import jsonschema_rs
import schemathesis

MODEL = os.environ["CLIENTS_MODEL"]
# Most that a generated request may ask for. The schema's own bounds allow hours of work.
BOUNDS = {"max_tokens": 8, "max_completion_tokens": 8, "max_reasoning_tokens": 4, "min_tokens": 4, "n": 2, "best_of": 2}
BOUNDS["max_output_tokens"] = 8
# Fields that are refused without another one.
NEEDS = {"stream_options": "stream", "top_logprobs": "logprobs", "tool_choice": "tools", "parallel_tool_calls": "tools"}
# What an answer may be held to, of which a request may name one; random ones hardly ever compile.
FORMS = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "array", "maxItems": 1}}},
    "guided_json": {"type": "integer"},
    "guided_regex": "[a-z]{1,3}",
    "guided_choice": ["a", "bc"],
    "guided_grammar": 'start: "a" | "b"',
    "structured_outputs": {"choice": ["x"]},
}
EVENTS = "text/event-stream"
# Of streams whose events have names.
LAST_EVENTS = ("message_stop", "response.completed", "response.incomplete", "response.failed")

# Path and method of an operation that streams, to a validator of what stands behind `data:`.
event_schemas = {}


@schemathesis.hook
def before_call(context, case, kwargs):
    """Keeps requests small, and makes most of those that are right by the schema right by their meaning too."""
    body = case.body
    if case.method.upper() != "POST" or not isinstance(body, dict):
        return
    if case.meta.generation.mode.is_positive:
        make_sense(body)
    for field, bound in BOUNDS.items():
        if type(body.get(field)) is int and body[field] > bound:
            body[field] = bound
    if case.operation.path == "/v1/responses":
        if body.get("max_output_tokens") is None:
            body["max_output_tokens"] = BOUNDS["max_output_tokens"]
        return
    counts = case.operation.path.endswith("/count_tokens")
    if not counts and body.get("max_tokens") is None and body.get("max_completion_tokens") is None:
        body["max_tokens"] = BOUNDS["max_tokens"]


def make_sense(body):
    """Takes out what a schema cannot forbid. The same request is always changed in the same way."""
    draw = random.Random(json.dumps(body, sort_keys=True, default=str))
    if "model" in body:
        body["model"] = MODEL
    if draw.random() < 0.3:
        body["stream"] = True
    for field, needed in NEEDS.items():
        if not body.get(needed):
            body.pop(field, None)
    if body.get("max_completion_tokens") is not None:
        body.pop("max_tokens", None)
    forms = [field for field in FORMS if body.get(field) is not None]
    for field in forms:
        body.pop(field)
    if forms and "messages" in body:
        field = draw.choice(forms)
        body[field] = FORMS[field]
    if not body.get("tools"):
        body.pop("tool_choice", None)
    elif isinstance(body.get("tool_choice"), dict) or body.get("tool_choice") == "required":
        # Names nobody declared, or forces a call of a schema that nobody could follow.
        body["tool_choice"] = "auto"
    # A random dialogue hardly ever makes sense. Some of them stay.
    if "messages" in body and draw.random() < 0.7:
        body["messages"] = [{"role": "user", "content": "Hello!"}]
        for field in ("tools", "tool_choice", "parallel_tool_calls"):
            body.pop(field, None)


    if "input" in body and draw.random() < 0.7:
        body["input"] = "Hello!"
        for field in ("tools", "tool_choice", "previous_response_id", "background"):
            body.pop(field, None)


@schemathesis.hook
def before_load_schema(context, document):
    """Takes over the schemas of events: they are of what an event carries, and Schemathesis takes them for the event's."""
    # The key is given in one header; made up in the other one, it would be a second credential.
    document["components"]["securitySchemes"].pop("x_api_key")
    document["security"] = [{"bearer": []}]
    components = {"components": document["components"]}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for response in operation.get("responses", {}).values():
                events = response.get("content", {}).get(EVENTS, {})
                if "schema" in events:
                    schema = {**events.pop("schema"), **components}
                    event_schemas[path, method] = jsonschema_rs.validator_for(schema)
    assert event_schemas, "no operation streams any more"


@schemathesis.check
def events_are_as_described(ctx, response, case):
    """Each event of a stream satisfies its schema, and the stream ends as it should."""
    if EVENTS not in response.headers.get("content-type", [""])[0]:
        return
    validator = event_schemas[case.operation.path, case.operation.method]
    blocks = [block for block in response.content.decode().split("\n\n") if block and not block.startswith(":")]
    if case.operation.path.startswith(("/v1/messages", "/v1/responses")):
        # These events are named after their types, and the last one is one of them.
        named = [block.split("\n", 1) for block in blocks]
        assert all(name == f"event: {json.loads(data.removeprefix('data: '))['type']}" for name, data in named), blocks
        events = [data.removeprefix("data: ") for _, data in named]
        assert named[-1][0].removeprefix("event: ") in LAST_EVENTS, f"the last event is {events[-1]}"
    else:
        assert all(block.startswith("data: ") for block in blocks), blocks
        *events, last = [block.removeprefix("data: ") for block in blocks]
        assert last == "[DONE]", f"the last event is {last}"
    for event in events:
        errors = [error.message for error in validator.iter_errors(json.loads(event))]
        assert not errors, f"{event}: {errors}"
