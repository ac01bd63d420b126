"""Tools and reasoning in chats, as far as a model shows them that has learned neither."""

import json
import re

import openai
import pytest

from conftest import MODEL, Server

MESSAGES = [{"role": "user", "content": "Tell me about a king."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
THINK = 4088  # <think>


@pytest.fixture
def chat(client, model):
    def ask(messages=MESSAGES, **more):
        return client.chat.completions.create(model=model, messages=messages, temperature=0, **more)

    return ask


def prompt_tokens(answer):
    return answer.usage.prompt_tokens


def test_the_model_sees_the_tools_that_it_may_call(chat):
    plain = prompt_tokens(chat(max_tokens=1))
    one = prompt_tokens(chat(max_tokens=1, tools=[WEATHER]))
    assert one > plain + 50
    assert prompt_tokens(chat(max_tokens=1, tools=[WEATHER], tool_choice="auto")) == one
    assert prompt_tokens(chat(max_tokens=1, tools=[WEATHER], tool_choice="none")) == plain
    assert prompt_tokens(chat(max_tokens=1, tools=[])) == plain


def test_an_answer_without_calls_is_as_without_tools(chat):
    answer = chat(max_tokens=24, tools=[WEATHER], parallel_tool_calls=False)
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    chunks = list(chat(max_tokens=24, tools=[WEATHER], parallel_tool_calls=False, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert all(delta.tool_calls is None for delta in deltas)
    assert "".join(delta.content or "" for delta in deltas) == answer.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == answer.choices[0].finish_reason


@pytest.mark.parametrize("arguments", ['{"city": "Rome"}', '{"city', ""])
def test_a_call_and_its_result_come_back_to_the_model(chat, arguments):
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    messages = MESSAGES + [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "It rains."},
    ]
    before = prompt_tokens(chat(max_tokens=1, tools=[WEATHER]))
    answer = chat(messages, max_tokens=8, tools=[WEATHER])
    assert prompt_tokens(answer) > before
    assert answer.choices[0].message.content


def test_reasoning_is_apart_from_the_content(chat):
    ask = dict(max_tokens=6, logit_bias={str(THINK): 100})  # nothing but <think>, of which the first is the tag
    message = chat(**ask).choices[0].message
    assert message.content == ""
    assert message.reasoning_content == "<think>" * 5
    deltas = [chunk.choices[0].delta for chunk in chat(**ask, stream=True)]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == message.reasoning_content
    assert "".join(delta.content or "" for delta in deltas) == ""
    message = chat(**ask, extra_body={"separate_reasoning": False}).choices[0].message
    assert message.content == "<think>" * 6
    assert message.reasoning_content is None
    message = chat(**ask, extra_body={"include_reasoning": False}).choices[0].message
    assert message.content == ""
    assert message.reasoning_content is None


def test_no_effort_is_no_thinking(chat):
    off = chat(max_tokens=1, extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    assert prompt_tokens(chat(max_tokens=1, reasoning_effort="none")) == prompt_tokens(off)
    assert prompt_tokens(chat(max_tokens=1, reasoning_effort="low")) < prompt_tokens(off)


@pytest.mark.parametrize(
    "more, param",
    [
        (dict(tool_choice="required"), "tool_choice"),
        (dict(tools=[WEATHER, WEATHER]), "tools[1].function.name"),
        (dict(tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "f"}}),
         "tool_choice.function.name"),
        (dict(tools=[WEATHER], tool_choice="sometimes"), "tool_choice"),
    ],
)
def test_what_makes_no_sense_is_refused(chat, more, param):
    with pytest.raises(openai.BadRequestError) as refused:
        chat(**more)
    assert refused.value.param == param


def tool(name, properties, required=(), **more):
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"type": "function", "function": {"name": name, "parameters": parameters} | more}


def described(kind="string"):
    return {"type": kind, "title": "A title", "description": "What is it? (one, two) * {three} + four " * 8,
            "examples": ["a?", "b*"], "default": None}  # fmt: skip


@pytest.fixture(scope="module")
def brief_server(tmp_path_factory):
    """The bundled model with a template that shows little of the tools, so that many fit."""
    folder = tmp_path_factory.mktemp("brief")
    for file in MODEL.iterdir():
        (folder / file.name).symlink_to(file)
    config = json.loads((MODEL / "tokenizer_config.json").read_text())
    config["chat_template"] = "{% if tools %}{{ tools[0].function.name }}{% endif %}{{ messages[0].content }}"
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    server = Server(model=folder)
    yield server
    server.stop()


@pytest.mark.parametrize("tools, properties", [(60, 8), (100, 6), (128, 8)])
@pytest.mark.parametrize("kind", ["string", "integer"])
def test_many_tools_may_be_demanded(brief_server, tools, properties, kind):
    body = {
        "messages": MESSAGES,
        "tools": [tool(f"tool_{i}", {f"p{k}": described(kind) for k in range(properties)}) for i in range(tools)],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 200,
        "seed": 4,
    }
    last = {"type": "function", "function": {"name": f"tool_{tools - 1}"}}
    for choice in ("required", last):
        (answer,) = brief_server.ask("/v1/chat/completions", body | {"tool_choice": choice})["choices"]
        assert answer["finish_reason"] in ("tool_calls", "length")
        for call in answer["message"].get("tool_calls") or []:
            assert set(json.loads(call["function"]["arguments"])) <= {f"p{k}" for k in range(properties)}
            assert choice == "required" or call["function"]["name"] == f"tool_{tools - 1}"


ODD = {
    "tags": {"type": "array", "items": {"type": "string", "enum": ["a"]}, "uniqueItems": True, "maxItems": 1},
    "file": {"type": "string", "format": "path", "maxLength": 4},
    "when": {"type": "object", "properties": None},
    "what": {"type": "any"},
}


def test_a_tool_with_odd_keywords_can_be_called(server):
    body = {"messages": MESSAGES, "tools": [tool("odd", ODD, ["tags", "file"])], "tool_choice": "required", "max_tokens": 120,
            "parallel_tool_calls": False, "seed": 1, "chat_template_kwargs": {"enable_thinking": False}}  # fmt: skip
    (choice,) = server.ask("/v1/chat/completions", body)["choices"]
    if choice["finish_reason"] == "tool_calls":
        arguments = json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])
        assert set(arguments) <= set(ODD) and len(arguments["file"]) <= 4
    body["tools"] = [WEATHER, tool("odd", ODD, strict=True)]
    error = server.post("/v1/chat/completions", body).json()["error"]
    assert error["param"] == "tools[1].function.parameters"
    assert "'odd'" in error["message"] and "'uniqueItems'" in error["message"] and "properties.tags" in error["message"]
    body["tool_choice"] = "auto"
    server.ask("/v1/chat/completions", body)


TOOL_CALL = "<tool_call>"


@pytest.mark.parametrize(
    "fields, pattern",
    [
        ({"response_format": {"type": "json_object"}}, r"\{.*"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [{"a": 1}]}}}}, r'\{ ?"a" ?: ?1 ?\}'),
        ({"guided_json": {"enum": [{"a": 1}]}}, r'\{ ?"a" ?: ?1 ?\}'),
        ({"guided_regex": "^[a-c]{2}/(?:yes|no)$"}, "[a-c]{2}/(yes|no)"),
        ({"structured_outputs": {"regex": "x\\\\y[0-9]"}}, r"x\\y[0-9]"),
        ({"guided_choice": ['say "yes"', "no"]}, '(say "yes"|no)'),
    ],
    ids=["json_object", "json_schema", "guided_json", "regex", "escaped_regex", "choice"],
)
def test_a_format_leaves_the_choice_of_a_call(server, fields, pattern):
    body = {"messages": MESSAGES, "tools": [tool("now", {})], "max_tokens": 60, "seed": 2, "temperature": 0,
            "chat_template_kwargs": {"enable_thinking": False}} | fields  # fmt: skip
    (token,) = server.ask("/tokenize", {"prompt": TOOL_CALL})["tokens"]
    (choice,) = server.ask("/v1/chat/completions", body | {"logit_bias": {str(token): 100}, "parallel_tool_calls": False})["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = [call["function"] for call in choice["message"]["tool_calls"]]
    assert call["name"] == "now" and json.loads(call["arguments"]) == {}
    (choice,) = server.ask("/v1/chat/completions", body | {"logit_bias": {str(token): -100}})["choices"]
    assert not choice["message"].get("tool_calls")
    assert re.fullmatch(pattern, choice["message"]["content"], re.DOTALL), choice


def say(server, text, **more):
    """A chat in which the model says the text, whole and as a stream."""
    body = {"messages": MESSAGES, "tools": [WEATHER], "max_tokens": 300, "grammar": "start: " + json.dumps(text)} | more
    body["chat_template_kwargs"] = {"enable_thinking": False}
    whole = server.ask("/v1/chat/completions", body)["choices"][0]
    streamed = {}
    for message in server.stream("/v1/chat/completions", body):
        for choice in message["choices"]:
            for call in choice["delta"].get("tool_calls") or []:
                known = streamed.setdefault(call["index"], "")
                streamed[call["index"]] = known + call["function"].get("arguments", "")
            reason = choice["finish_reason"] or None
    return whole, list(streamed.values()), reason


@pytest.mark.parametrize(
    "arguments, told",
    [
        ('{"city": "Rome\tand\nParis"}', {"city": "Rome\tand\nParis"}),
        ('"{\\"city\\": \\"Rome\\"}"', {"city": "Rome"}),
        ("null", {}),
        ('""', {}),
        ('{"city": "\\d"}', None),
        ('{"city": True}', None),
        ('{"city": 007}', None),
        ('{"city": "Rome",}', None),
    ],
)
def test_arguments_are_json_or_there_is_no_call(server, arguments, told):
    text = '<tool_call>\n{"name": "weather", "arguments": ' + arguments + "}\n</tool_call>"
    whole, streamed, reason = say(server, text)
    calls = whole["message"].get("tool_calls") or []
    assert [json.loads(call["function"]["arguments"]) for call in calls] == ([] if told is None else [told])
    assert whole["finish_reason"] == reason == ("stop" if told is None else "tool_calls")
    if told is None:
        assert whole["message"]["content"] == text
    else:
        assert [json.loads(call) for call in streamed] == [told]


@pytest.mark.parametrize("size", [13, 30, 45, 55, 65, 72])
def test_a_call_that_stops_is_content(server, size):
    text = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "a": [1, 2]}'[:size]
    whole, _, reason = say(server, text)
    assert not whole["message"].get("tool_calls")
    assert whole["message"]["content"] == text
    assert whole["finish_reason"] == reason == "stop"
