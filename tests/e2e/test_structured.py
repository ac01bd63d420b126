"""Structured output: what is asked for comes, in every endpoint, streamed or not, alone or in a batch."""

import json
import random
import re
import select
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import pytest

from raw_http import Connection, post

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["king", "queen", "fox"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}
MESSAGES = [{"role": "user", "content": "Tell me about the king."}]


def schema_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def strict_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def complete(server, **body):
    answer = server.ask("/v1/completions", {"prompt": "Once upon a time ", "max_tokens": 200, "seed": 3} | body)
    assert answer["choices"][0]["finish_reason"] == "stop", answer
    return answer["choices"][0]["text"]


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": schema_format(PERSON)},
        {"json_schema": PERSON},
        {"json_schema": json.dumps(PERSON)},
        {"guided_json": PERSON},
        {"structured_outputs": {"json": PERSON}},
        {"response_format": {"type": "json_object", "schema": PERSON}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_schema_under_every_name(server, fields):
    jsonschema.validate(json.loads(complete(server, **fields)), PERSON)


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"regex": r"[a-z]{3}-[0-9]{2}"}, r"[a-z]{3}-[0-9]{2}"),
        ({"guided_regex": r"(yes|no), \d{1,3}"}, r"(yes|no), \d{1,3}"),
        ({"structured_outputs": {"regex": "ab?c"}}, "ab?c"),
        ({"ebnf": 'root ::= "the " animal\nanimal ::= "fox" | "cat"'}, "the (fox|cat)"),
        ({"grammar": 'root ::= [a-f]{1,4} "!"'}, "[a-f]{1,4}!"),
        ({"guided_grammar": 'root ::= "x" "y"?'}, "xy?"),
        ({"guided_choice": ["red", "green"]}, "red|green"),
        ({"structured_outputs": {"choice": ["a b", "c"]}}, "a b|c"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_matches_a_pattern(server, fields, pattern):
    assert re.fullmatch(pattern, complete(server, **fields))


def test_a_json_object_is_an_object(server):
    body = {"prompt": "{", "max_tokens": 300, "response_format": {"type": "json_object"}, "seed": 1, "n": 8}
    for choice in server.ask("/v1/completions", body)["choices"]:
        assert choice["text"].lstrip().startswith("{")
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(choice["text"]), dict)


def test_the_native_endpoint_and_batches(server):
    params = [{"json_schema": json.dumps(PERSON)}, {"regex": "[0-9]{4}"}, {}]
    body = {"text": ["a", "b", "c"], "sampling_params": [p | {"max_new_tokens": 150} for p in params]}
    answers = server.ask("/generate", body)
    jsonschema.validate(json.loads(answers[0]["text"]), PERSON)
    assert re.fullmatch("[0-9]{4}", answers[1]["text"])


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_stream_equals_its_unstreamed_twin(server, path):
    body = {"response_format": schema_format(PERSON), "max_tokens": 200, "seed": 7} | NO_THINKING
    body |= {"prompt": "A fox "} if path == "/v1/completions" else {"messages": MESSAGES}
    whole = server.ask(path, body)["choices"][0]
    text = ""
    for message in server.stream(path, body):
        for choice in message["choices"]:
            text += choice.get("text") or choice.get("delta", {}).get("content") or ""
    assert text == (whole.get("text") or whole["message"]["content"])
    jsonschema.validate(json.loads(text), PERSON)


def test_a_batch_does_not_change_the_output(server):
    def ask(seed):
        return complete(server, json_schema=PERSON, seed=seed)

    alone = [ask(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(8))) == alone


def hard_grammar(number):
    """As many properties as there may be, and none that another grammar has."""
    properties = {f"p{number}x{i}": {"type": "string", "pattern": f"a{i}.*"} for i in range(1000)}
    return {"json_schema": {"type": "object", "properties": properties}}


def test_hard_grammars_hold_up_only_those_who_ask_for_them(serve):
    server = serve()
    connections = [Connection(server, timeout=120) for _ in range(24)]
    for number, connection in enumerate(connections):
        connection.send(post("/v1/completions", {"prompt": "a", "max_tokens": 1} | hard_grammar(number)))
    for _ in range(3):
        server.ask("/v1/completions", {"prompt": "Once", "max_tokens": 1})
    answered, _, _ = select.select([connection.socket for connection in connections], [], [], 0)
    assert len(answered) < len(connections) / 2, f"{len(answered)} hard ones came first"
    for connection in connections:
        assert connection.response().status == 200
        connection.close()


TOOLS = [
    {"type": "function",
     "function": {"name": "weather",
                  "parameters": {"type": "object",
                                 "properties": {"city": {"type": "string", "maxLength": 10},
                                                "days": {"type": "integer", "minimum": 1, "maximum": 9}},
                                 "required": ["city", "days"], "additionalProperties": False}}},
    {"type": "function",
     "function": {"name": "clock",
                  "parameters": {"type": "object",
                                 "properties": {"zone": {"enum": ["UTC", "CET"]}},
                                 "required": ["zone"], "additionalProperties": False}}},
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "clock"}}], ids=["required", "named"]
)
def test_calls_can_be_forced(server, client, model, choice, stream):
    counted = server.metrics()['chorale_request_finished_total{reason="tool_calls"}']
    options = {"model": model, "messages": MESSAGES, "tools": TOOLS, "tool_choice": choice, "max_tokens": 250,
               "parallel_tool_calls": False, "seed": 5, "extra_body": NO_THINKING}  # fmt: skip
    calls, finish = {}, None
    if stream:
        for chunk in client.chat.completions.create(**options, stream=True):
            for delta in chunk.choices[0].delta.tool_calls or []:
                name, arguments = calls.get(delta.index, ("", ""))
                calls[delta.index] = (name + (delta.function.name or ""), arguments + (delta.function.arguments or ""))
            finish = chunk.choices[0].finish_reason or finish
    else:
        answer = client.chat.completions.create(**options).choices[0]
        calls = dict(enumerate((c.function.name, c.function.arguments) for c in answer.message.tool_calls))
        finish = answer.finish_reason
    assert finish == "tool_calls"
    assert server.metrics()['chorale_request_finished_total{reason="tool_calls"}'] == counted + 1
    assert list(calls) == [0]
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
    name, arguments = calls[0]
    assert choice == "required" or name == "clock"
    jsonschema.validate(json.loads(arguments), schemas[name])


@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_call_comes_before_a_response_format(server, stream):
    """As with OpenAI, the format is about the text of the message, of which there is none."""
    plain = {"messages": MESSAGES, "tools": TOOLS, "tool_choice": "required", "max_tokens": 250, "seed": 5} | NO_THINKING
    body = plain | {"response_format": schema_format(PERSON)}

    def calls(body):
        if not stream:
            (choice,) = server.ask("/v1/chat/completions", body)["choices"]
            assert choice["finish_reason"] == "tool_calls" and not choice["message"]["content"]
            return [call["function"] for call in choice["message"]["tool_calls"]]
        deltas = [choice["delta"] for message in server.stream("/v1/chat/completions", body) for choice in message["choices"]]
        assert not any(delta.get("content") for delta in deltas)
        return [call["function"] for delta in deltas for call in delta.get("tool_calls") or []]

    assert calls(body) == calls(plain) != []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"json_schema": {"type": "what"}}, "json_schema"),
        ({"json_schema": 5}, "json_schema"),
        ({"json_schema": "{"}, "json_schema"),
        ({"response_format": strict_format({"not": {"type": "string"}})}, "response_format.json_schema.schema"),
        ({"regex": "(a"}, "regex"),
        ({"regex": 5}, "regex"),
        ({"ebnf": "root ::= nothing"}, "ebnf"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": [1]}, "guided_choice"),
        ({"regex": "a", "json_schema": {}}, "regex"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
         "response_format.json_schema.schema"),
        ({"response_format": "json"}, "response_format"),
    ],
)  # fmt: skip
def test_refusals(server, fields, param):
    answer = server.post("/v1/completions", {"prompt": "a", "max_tokens": 5} | fields)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param
    assert len(answer.text) < 4000


UNENFORCEABLE = {
    "uniqueItems": {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True, "maxItems": 3},
    "format": {"type": "string", "format": "path", "maxLength": 6},
    "propertyNames": {"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}, "additionalProperties": {"enum": [1]},
                      "maxProperties": 1},
    "not": {"type": "integer", "not": {"const": 3}, "minimum": 0, "maximum": 9},
    "if": {"type": "integer", "if": {"minimum": 5}, "then": {"multipleOf": 5}, "minimum": 0, "maximum": 9},
    "contains": {"type": "array", "items": {"enum": [1, 2]}, "contains": {"const": 1}, "maxItems": 2},
    "pattern": {"type": "string", "pattern": r"^(?!x)\b[a-z]+$", "maxLength": 6},
    "oneOf": {"oneOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "integer", "enum": [3, 44]}]},
}  # fmt: skip


@pytest.mark.parametrize("keyword", UNENFORCEABLE)
@pytest.mark.parametrize("nested", [False, True])
def test_what_cannot_be_enforced_is_left_out_unless_it_is_strict(server, keyword, nested):
    schema = UNENFORCEABLE[keyword]
    if nested:
        schema = {"type": "object", "properties": {"part": {"anyOf": [{"type": "null"}, schema]}}, "required": ["part"]}
    value = json.loads(complete(server, response_format=schema_format(schema)))
    without = json.loads(json.dumps(schema))
    inner = without["properties"]["part"]["anyOf"][1] if nested else without
    del inner[keyword]
    inner.pop("then", None)
    jsonschema.validate(value, without)
    error = server.post("/v1/completions", {"prompt": "a", "response_format": strict_format(schema)}).json()["error"]
    assert error["param"] == "response_format.json_schema.schema"
    assert f"'{keyword}'" in error["message"] and "'answer'" in error["message"]
    assert ("properties.part" in error["message"]) == nested


def test_objects_with_properties_are_closed(server):
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}, "b": {"type": "object", "properties": {}}}, "required": []}
    for seed in range(10):
        value = json.loads(complete(server, json_schema=schema, seed=seed))
        assert set(value) <= {"a", "b"} and not value.get("b")
    both = {"allOf": [{"type": "object", "properties": {name: {"enum": [1]}}, "required": [name]} for name in "ab"]}
    answer = server.ask("/v1/completions", {"prompt": "{", "max_tokens": 60, "json_schema": both})
    assert answer["choices"][0]["text"].startswith("{")
    with_required = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a", "b"]}
    server.ask("/v1/completions", {"prompt": "{", "max_tokens": 5, "json_schema": with_required})


def test_the_end_of_a_grammar_wins_over_min_tokens(server):
    for fields in ({"guided_choice": ["yes", "no"]}, {"regex": "[0-9]{2}"}, {"json_schema": {"enum": [1, 2]}}):
        answer = server.ask("/v1/completions", {"prompt": "a", "max_tokens": 50, "min_tokens": 40} | fields)
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["choices"][0]["text"]
    sampling = {"regex": "[a-z]{3}", "min_new_tokens": 30, "max_new_tokens": 40}
    assert re.fullmatch("[a-z]{3}", server.generate("a", **sampling)["text"])


HOSTILE = [
    {"regex": "(a{1000}){1000}{1000}"},
    {"regex": "((x+x+)+y)+" * 50},
    {"regex": "(" * 2000},
    {"json_schema": {"$ref": "#"}},
    {"json_schema": {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}},
    {"json_schema": {"enum": [str(i) * 20 for i in range(5000)]}},
    {"json_schema": {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(2000)}}},
    {"ebnf": "root ::= root root"},
    {"ebnf": "\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(2000)) + '\nr2000 ::= "a"\nroot ::= r0'},
]


@pytest.mark.parametrize("fields", HOSTILE, ids=lambda fields: str(next(iter(fields))))
def test_hostile_grammars_end_soon_and_hurt_nobody(server, fields):
    answer = server.post("/v1/completions", {"prompt": "a", "max_tokens": 8} | fields)
    assert answer.status_code in (200, 400), answer.text
    assert server.generate("Hello", max_new_tokens=2)["meta_info"]["completion_tokens"] == 2
    server.wait_until_empty()


def random_schema(rng, depth=0):
    """A schema of the kinds that applications use; what it allows is bounded, so that most outputs end."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "pattern"]
    if depth < 3:
        kinds += ["object"] * 4 + ["array"] * 2 + ["anyOf"]
    kind = "object" if depth == 0 else rng.choice(kinds)
    if kind == "object":
        names = rng.sample(["name", "age", "kind", "a b", "ünï", "items", "x"], rng.randint(1, 4))
        return {
            "type": "object",
            "properties": {name: random_schema(rng, depth + 1) for name in names},
            "required": rng.sample(names, rng.randint(0, len(names))),
            "additionalProperties": False,
        }
    if kind == "array":
        return {"type": "array", "items": random_schema(rng, depth + 1), "minItems": rng.randint(0, 1),
                "maxItems": rng.randint(1, 3)}  # fmt: skip
    if kind == "anyOf":
        return {"anyOf": [random_schema(rng, depth + 1) for _ in range(2)]}
    if kind == "string":
        return {"type": "string", "minLength": rng.randint(0, 2), "maxLength": rng.randint(2, 12)}
    if kind == "integer":
        return {"type": "integer", "minimum": rng.randint(-5, 5), "maximum": rng.randint(6, 999)}
    if kind == "enum":
        return {"enum": rng.sample(["red", "a\"b", "", 1, 2.5, None, True, "grün"], rng.randint(1, 4))}
    if kind == "const":
        return {"const": rng.choice(["x", 7, None, [1, "a"], {"k": 1}])}
    if kind == "pattern":
        return {"type": "string", "pattern": rng.choice(["^[a-z]{2,5}$", "^\\d{4}-\\d{2}$", "^(a|bc)+z$"])}
    return {"type": kind}


def test_outputs_of_200_random_schemas_validate(server):
    schemas = [random_schema(random.Random(seed)) for seed in range(200)]

    def ask(seed):
        body = {"prompt": "The answer: ", "max_tokens": 160, "seed": seed, "json_schema": schemas[seed]}
        return server.ask("/v1/completions", body)["choices"][0]

    with ThreadPoolExecutor(32) as pool:
        choices = list(pool.map(ask, range(200)))
    completed = 0
    for schema, choice in zip(schemas, choices, strict=True):
        if choice["finish_reason"] == "stop":
            completed += 1
            jsonschema.validate(json.loads(choice["text"]), schema)
    assert completed >= 160, completed
