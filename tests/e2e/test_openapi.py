"""/openapi.json: a valid description that agrees with what the server takes, refuses and answers."""

import random

import httpx
import jsonschema
import pytest

# What a value of each type is not.
WRONG = {"string": 5, "integer": "x", "number": "x", "boolean": "x", "object": [1], "array": 5}


@pytest.fixture(scope="module")
def description(server):
    response = httpx.get(server.url + "/openapi.json")
    assert response.headers["content-type"] == "application/json"
    return response.json()


@pytest.fixture(scope="module")
def http(server):
    """One connection for thousands of requests: to make a client costs more than its request."""
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


def schema_of(description, schema):
    """The schema by itself: its references are those of the description."""
    return schema | {"components": description["components"]}


def operations(description):
    return [(path, method, operation) for path, entry in description["paths"].items()
            for method, operation in entry.items()]  # fmt: skip


def test_every_operation_exists(server, description):
    for path, methods in description["paths"].items():
        allowed = httpx.options(server.url + path.replace("{name}", "tales-moe")).headers["allow"]
        assert {method.upper() for method in methods} == set(allowed.split(", ")) - {"HEAD", "OPTIONS"}, path


def test_every_schema_is_valid(description):
    for name, schema in description["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert jsonschema.Draft202012Validator(schema_of(description, {"$ref": f"#/components/schemas/{name}"}))
    for _, _, operation in operations(description):
        for status, response in operation["responses"].items():
            assert status == "200" or response["$ref"].endswith("Error")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 3, "n": 2, "logprobs": 1}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "seed": 1}),
        ("/generate", {"text": "a", "sampling_params": {"max_new_tokens": 3}}),
        ("/generate", {"input_ids": [[1], [2]], "sampling_params": {"max_new_tokens": 3}}),
        ("/tokenize", {"prompt": "a"}),
        ("/detokenize", {"tokens": [1, 2]}),
        ("/abort_request", {"rid": "nobody"}),
        ("/v1/responses", {"input": "Hi", "max_output_tokens": 3}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "Hi"}]}),
    ],
)
def test_answers_are_as_described(server, description, path, body):
    operation = description["paths"][path]["post"]
    request = operation["requestBody"]["content"]["application/json"]["schema"]
    jsonschema.validate(body, schema_of(description, request))
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(server.ask(path, body), schema_of(description, answer))


@pytest.mark.parametrize("path, body", [
    ("/abort_request", {"abort_all": False}),
    ("/abort_request", {"rid": None}),
    ("/abort_request", {"rid": "nobody", "abort_all": None}),
    ("/v1/chat/completions", {"messages": [{"role": "tool"}]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": None}]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}, {"role": "tool", "content": None}], "max_tokens": 1}),
    ("/v1/chat/completions", {"messages": [{"role": "assistant"}], "max_tokens": 1, "tools": None, "n": None}),
    ("/v1/completions", {"prompt": "a", "max_tokens": 1, "echo": None, "cache_salt": None, "seed": None}),
    ("/v1/completions", {"prompt": "a", "max_tokens": 1, "cache_salt": ""}),
    ("/generate", {"text": "a", "logprob_start_len": 0}),
    ("/generate", {"text": "a", "logprob_start_len": -1, "sampling_params": {"max_new_tokens": 1, "temperature": None}}),
    ("/generate", {"text": None, "input_ids": [1], "sampling_params": {"max_new_tokens": 1}}),
    ("/generate", {"text": None, "sampling_params": None}),
    ("/generate", {"text": "a", "top_logprobs_num": 2, "return_logprob": False}),
    ("/tokenize", {"prompt": None, "text": "a", "add_special_tokens": None}),
])  # fmt: skip
def test_the_schema_takes_what_the_server_takes(server, description, path, body):
    schema = description["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    described = jsonschema.Draft202012Validator(schema_of(description, schema)).is_valid(body)
    assert server.post(path, body).status_code == (200 if described else 400)


def wrong_values(description, schema):
    """Values that the schema does not take."""
    schema = description["components"]["schemas"].get(schema.get("$ref", "").rsplit("/", 1)[-1], schema)
    kinds = schema.get("anyOf", [schema])
    candidates = [WRONG.get(kind.get("type")) if isinstance(kind.get("type"), str) else None for kind in kinds]
    candidates += [-1e9, 1e9, 2**70, "", "x", [], {}, [None], [{}], True, 1.5, [[[]]], {"a": 1}]
    validator = jsonschema.Draft202012Validator(schema_of(description, schema))
    return [value for value in candidates if value is not None and not validator.is_valid(value)]


BASES = {
    "/v1/completions": {"prompt": "a", "max_tokens": 2},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
    "/generate": {"text": "a", "sampling_params": {"max_new_tokens": 2}},
    "/tokenize": {"prompt": "a"},
    "/detokenize": {"tokens": [1]},
    "/abort_request": {"rid": "nobody"},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 2},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "Hi"}]},
}


@pytest.mark.parametrize("path", BASES)
def test_values_outside_the_schema_are_refused_and_hurt_nobody(server, http, description, path):
    operation = description["paths"][path]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    schema = description["components"]["schemas"].get(schema.get("$ref", "").rsplit("/", 1)[-1], schema)
    error = schema_of(description, {"$ref": operation["responses"]["400"]["$ref"].replace("responses", "schemas")})
    tried = 0
    for name, field in schema["properties"].items():
        for value in wrong_values(description, field):
            answer = http.post(path, json=BASES[path] | {name: value})
            assert answer.status_code in (400, 404), (name, value, answer.status_code, answer.text[:300])
            jsonschema.validate(answer.json(), error)
            tried += 1
    assert tried > 5
    assert server.generate("a", max_new_tokens=1)["meta_info"]["completion_tokens"] == 1


def random_value(rng, depth=0):
    kinds = [None, True, False, 0, -1, 1, 0.5, 1e308, 2**63, "", "x", "😀", "a" * 3000]
    if depth < 3 and rng.random() < 0.4:
        if rng.random() < 0.5:
            return [random_value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
        return {rng.choice(["type", "schema", "function", "name", "role", "content", "a"]): random_value(rng, depth + 1)
                for _ in range(rng.randint(0, 3))}  # fmt: skip
    return rng.choice(kinds)


@pytest.mark.parametrize("path", BASES)
def test_random_bodies_never_make_the_server_fail(server, http, description, path):
    schema = description["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = description["components"]["schemas"].get(schema.get("$ref", "").rsplit("/", 1)[-1], schema)
    rng = random.Random(path)
    names = list(schema["properties"])
    for _ in range(300):
        body = dict(BASES[path])
        for name in rng.sample(names, min(len(names), rng.randint(1, 3))):
            body[name] = random_value(rng)
        body["stream"] = False
        answer = http.post(path, json=body)
        assert answer.status_code in (200, 400, 404), (body, answer.status_code, answer.text[:300])
    server.wait_until_empty()
