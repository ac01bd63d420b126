"""/v1/responses with OpenAI's client: items in and out, events, what is kept, and that it is the same chat as at the other door."""

import json

import httpx
import openai
import pytest

USER = [{"role": "user", "content": "Tell me about a king."}]
TOOL = {"type": "function", "name": "weather", "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}  # fmt: skip
CHAT_TOOL = {"type": "function", "function": {key: TOOL[key] for key in ("name", "description", "parameters")}}
NOW = {"type": "function", "name": "now", "parameters": {"type": "object", "properties": {}}}
CHAT_NOW = {"type": "function", "function": {key: NOW[key] for key in ("name", "parameters")}}
THINK = "4088"  # <think>, with which the model may begin before its words are forced
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
NO_THINKING = {"effort": "none"}


def create(client, says=None, **more):
    if says is not None:
        more["extra_body"] = {"grammar": "start: " + json.dumps(says), "logit_bias": {THINK: -100}, "seed": 1}
    return client.responses.create(**dict(model="tales-moe", input="Hi", max_output_tokens=200) | more)


def events_of(client, says=None, **more):
    return list(create(client, says, stream=True, **more))


def items(response):
    """Without ids, which differ from answer to answer."""
    out = []
    for item in response.output:
        text = "".join(part.text for part in getattr(item, "content", None) or [])
        call = (item.name, json.loads(item.arguments)) if item.type == "function_call" else None
        out.append((item.type, call or text, item.status))
    return out


SAID = {
    "text": ("Once upon a time.", [("message", "Once upon a time.", "completed")]),
    "reasoning": ("<think>\nWell, well.\n</think>\n\nNo.", [("reasoning", "Well, well.", "completed"), ("message", "No.", "completed")]),
    "call": (CALL, [("function_call", ("weather", {"city": "Rome"}), "completed")]),
    "all": ("<think>\nHm.\n</think>\n\nI look.\n" + CALL + "\n" + CALL.replace("Rome", "Oslo"),
            [("reasoning", "Hm.", "completed"), ("message", "I look.", "completed"),
             ("function_call", ("weather", {"city": "Rome"}), "completed"),
             ("function_call", ("weather", {"city": "Oslo"}), "completed")]),
}  # fmt: skip


@pytest.mark.parametrize("said", SAID)
def test_what_the_model_says_becomes_items(client, said):
    text, expected = SAID[said]
    whole = create(client, text, tools=[TOOL])
    assert items(whole) == expected
    assert (whole.object, whole.status, whole.model, whole.error) == ("response", "completed", "tales-moe", None)
    assert whole.tools[0].name == "weather" and whole.tool_choice == "auto" and whole.parallel_tool_calls is True
    streamed = events_of(client, text, tools=[TOOL])[-1].response
    assert items(streamed) == expected
    assert streamed.usage.output_tokens == whole.usage.output_tokens == whole.usage.total_tokens - whole.usage.input_tokens
    assert (whole.usage.output_tokens_details.reasoning_tokens > 0) == (said in ("reasoning", "all"))


def test_the_events_of_a_stream_in_their_order(client):
    events = events_of(client, SAID["all"][0], tools=[TOOL])
    assert [event.sequence_number for event in events] == list(range(len(events)))
    types = [event.type for event in events]
    assert types[:2] == ["response.created", "response.in_progress"] and types[-1] == "response.completed"
    assert events[0].response.status == "in_progress" and events[0].response.output == []
    text, arguments, done = {}, {}, []
    for event in events:
        if event.type == "response.output_item.added":
            assert event.output_index == len(done) and event.item.status == "in_progress"
            open_item = event.item.id
        elif event.type == "response.output_item.done":
            assert event.item.id == open_item
            done.append(event.item)
        elif event.type.endswith(".delta"):
            assert event.item_id == open_item
            where = arguments if "arguments" in event.type else text
            where[open_item] = where.get(open_item, "") + event.delta
    assert done == events[-1].response.output
    assert text == {item.id: item.content[0].text for item in done if item.type != "function_call"}
    assert arguments == {item.id: item.arguments for item in done if item.type == "function_call"}


def test_events_have_names_and_no_end_mark(server):
    body = {"input": "Hi", "max_output_tokens": 3, "stream": True}
    with httpx.stream("POST", server.url + "/v1/responses", json=body, timeout=60) as response:
        lines = [line for line in response.iter_lines() if line]
    assert [line.removeprefix("event: ") for line in lines[::2]] == [json.loads(line[6:])["type"] for line in lines[1::2]]
    assert lines[-2] == "event: response.incomplete"


def test_the_clients_own_helpers(client):
    with client.responses.stream(model="tales-moe", input="Hi", max_output_tokens=200,
                                 extra_body={"grammar": "start: " + json.dumps(SAID["all"][0]), "logit_bias": {THINK: -100}, "seed": 1},
                                 tools=[TOOL | {"strict": True}]) as stream:  # fmt: skip
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert "response.function_call_arguments.delta" in kinds and items(final) == SAID["all"][1]
    assert final.output_text == "I look."


HISTORY = [
    {"role": "developer", "content": "Be kind."},
    {"role": "user", "content": [{"type": "input_text", "text": "Hi"}, {"type": "input_text", "text": "you"}]},
    {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "A city."}]},
    {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
     "content": [{"type": "output_text", "text": "I look.", "annotations": []}]},
    {"type": "function_call", "call_id": "t1", "name": "weather", "arguments": '{"city":"Rome"}'},
    {"type": "function_call_output", "call_id": "t1", "output": "It rains."},
    {"role": "user", "content": "And now?"},
]  # fmt: skip
CHAT_HISTORY = [
    {"role": "system", "content": "Be brief."}, {"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi\nyou"},
    {"role": "assistant", "content": "I look.", "reasoning_content": "A city.",
     "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}]},
    {"role": "tool", "tool_call_id": "t1", "content": "It rains."}, {"role": "user", "content": "And now?"},
]  # fmt: skip
OFF = {"enable_thinking": False}


@pytest.mark.parametrize(
    "here, there",
    [
        (dict(input="Tell me about a king."), dict(messages=USER)),
        (dict(input=USER, reasoning=NO_THINKING), dict(messages=USER, chat_template_kwargs=OFF)),
        (dict(input=HISTORY, instructions="Be brief.", tools=[TOOL]), dict(messages=CHAT_HISTORY, tools=[CHAT_TOOL])),
        (dict(input=USER, tools=[NOW], tool_choice="required", parallel_tool_calls=False, reasoning=NO_THINKING),
         dict(messages=USER, tools=[CHAT_NOW], tool_choice="required", parallel_tool_calls=False, chat_template_kwargs=OFF)),
        (dict(input=USER, tools=[TOOL, NOW], tool_choice={"type": "function", "name": "now"}, parallel_tool_calls=False,
              reasoning=NO_THINKING),
         dict(messages=USER, tools=[CHAT_TOOL, CHAT_NOW], tool_choice={"type": "function", "function": {"name": "now"}},
              parallel_tool_calls=False, chat_template_kwargs=OFF)),
        (dict(input=USER, temperature=1.0, top_p=0.9, extra_body={"seed": 3}), dict(messages=USER, temperature=1.0, top_p=0.9, seed=3)),
        (dict(input=USER, text={"format": {"type": "json_schema", "name": "a", "schema": {"enum": [{"a": 1}]}}}, reasoning=NO_THINKING),
         dict(messages=USER, response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": [{"a": 1}]}}},
              chat_template_kwargs=OFF)),
        (dict(input=USER, text={"format": {"type": "text"}}), dict(messages=USER)),
    ],
    ids=["text", "no thinking", "history", "required", "one tool", "sampling", "format", "text format"],
)  # fmt: skip
def test_it_is_the_same_chat(server, client, here, there):
    """Prompt and answer have the same tokens as at /v1/chat/completions, streamed and not."""
    other = server.ask("/v1/chat/completions", dict(max_tokens=48, temperature=0) | there)
    here = dict(temperature=0, max_output_tokens=48) | here
    whole = create(client, **here)
    streamed = events_of(client, **here)[-1].response
    assert items(whole) == items(streamed)
    for usage in (whole.usage, streamed.usage):
        assert usage.input_tokens == other["usage"]["prompt_tokens"]
        assert usage.output_tokens == other["usage"]["completion_tokens"]
    told = other["choices"][0]["message"]
    assert whole.output_text == (told["content"] or "")
    calls = [json.loads(call["function"]["arguments"]) for call in told.get("tool_calls") or []]
    assert [json.loads(item.arguments) for item in whole.output if item.type == "function_call"] == calls


def test_a_response_goes_on_with_an_earlier_one(server, client):
    first = create(client, "Once.", input="Hi", instructions="Be brief.", reasoning=NO_THINKING)
    second = create(client, input="Go on.", previous_response_id=first.id, max_output_tokens=5, temperature=0)
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Once."}, {"role": "user", "content": "Go on."}]
    other = server.ask("/v1/chat/completions", {"messages": chat, "max_tokens": 5, "temperature": 0})
    assert second.usage.input_tokens == other["usage"]["prompt_tokens"]  # the instructions are not carried over
    assert second.output_text == other["choices"][0]["message"]["content"]
    assert second.previous_response_id == first.id
    third = create(client, input="More.", previous_response_id=second.id, max_output_tokens=1)
    assert third.usage.input_tokens > second.usage.input_tokens


def test_what_is_kept_can_be_had_and_deleted(client):
    made = create(client, "Once.", input="Hi", metadata={"a": "b"})
    kept = client.responses.retrieve(made.id)
    assert kept == made and kept.metadata == {"a": "b"}
    (item,) = client.responses.input_items.list(made.id).data
    assert item.content == "Hi"
    with pytest.raises(openai.BadRequestError, match="is not running"):
        client.responses.cancel(made.id)
    client.responses.delete(made.id)
    for gone in (client.responses.retrieve, client.responses.delete, client.responses.cancel):
        with pytest.raises(openai.NotFoundError):
            gone(made.id)
    with pytest.raises(openai.NotFoundError):
        create(client, previous_response_id=made.id)
    unkept = create(client, "Once.", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unkept.id)


def test_one_that_runs_can_be_cancelled(server, client):
    stream = create(client, stream=True, max_output_tokens=1900, extra_body={"ignore_eos": True})
    events = iter(stream)
    made = next(events).response
    assert client.responses.retrieve(made.id).status == "in_progress"
    assert client.responses.cancel(made.id).status == "cancelled"
    last = list(events)[-1]
    assert last.response.status == "cancelled" == client.responses.retrieve(made.id).status
    server.wait_until_empty()
    # A client that goes away ends it, too.
    stream = create(client, stream=True, max_output_tokens=1900, extra_body={"ignore_eos": True})
    made = next(iter(stream)).response
    stream.close()
    server.wait_until_empty()
    assert client.responses.retrieve(made.id).status == "cancelled"


def test_the_store_is_bounded(serve):
    few = serve("--max-stored-responses", "2")
    ids = [few.ask("/v1/responses", {"input": "Hi", "max_output_tokens": 1})["id"] for _ in range(3)]
    assert [httpx.get(f"{few.url}/v1/responses/{name}").status_code for name in ids] == [404, 200, 200]
    none = serve("--max-stored-responses", "0")
    made = none.ask("/v1/responses", {"input": "Hi", "max_output_tokens": 1})
    assert made["store"] is False
    error = none.post("/v1/responses", {"input": "Hi", "previous_response_id": made["id"]})
    assert error.status_code == 404 and "--max-stored-responses" in error.json()["error"]["message"]


def test_what_is_cut_is_incomplete(client):
    cut = create(client, max_output_tokens=3, reasoning=NO_THINKING)
    assert (cut.status, cut.incomplete_details.reason, cut.usage.output_tokens) == ("incomplete", "max_output_tokens", 3)
    assert cut.output[-1].status == "incomplete"
    assert events_of(client, max_output_tokens=3)[-1].type == "response.incomplete"


REFUSED = [
    (dict(input=None), "input"),
    (dict(input=[]), "input"),
    (dict(input=5), "input"),
    (dict(input=[{"role": "robot", "content": "Hi"}]), "input[0].role"),
    (dict(input=[{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]), "input[0].content[0].type"),
    (dict(input=[{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]), "input[0].content[0].type"),
    (dict(input=[{"type": "item_reference", "id": "x"}]), "input[0].type"),
    (dict(input=[{"type": "function_call", "name": "a", "arguments": "{}"}]), "input[0].call_id"),
    (dict(input=[{"type": "function_call_output", "call_id": "a"}]), "input[0].output"),
    (dict(tools=[{"type": "web_search"}]), "tools[0].type"),
    (dict(tools=[{"type": "file_search", "vector_store_ids": []}]), "tools[0].type"),
    (dict(tools=[{"type": "function"}]), "tools[0].name"),
    (dict(tools=[{"type": "function", "name": "a b"}]), "tools[0].name"),
    (dict(tools=[TOOL], tool_choice="sometimes"), "tool_choice"),
    (dict(background=True), "background"),
    (dict(conversation="c"), "conversation"),
    (dict(prompt={"id": "p"}), "prompt"),
    (dict(truncation="auto"), "truncation"),
    (dict(top_logprobs=3), "top_logprobs"),
    (dict(include=["message.output_text.logprobs"]), "include"),
    (dict(text={"format": {"type": "xml"}}), "text.format.type"),
    (dict(text={"format": {"type": "json_schema", "name": "a"}}), "text.format.schema"),
    (dict(text={"format": {"type": "json_schema", "name": "a", "strict": True, "schema": {"not": {}}}}), "text.format.schema"),
    (dict(max_output_tokens=-1), "max_output_tokens"),
    (dict(max_output_tokens=5000), "max_output_tokens"),
    (dict(temperature=-1), "temperature"),
    (dict(previous_response_id=5), "previous_response_id"),
]  # fmt: skip


@pytest.mark.parametrize("change, param", REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_refusals_name_what_is_wrong(server, change, param):
    body = {"input": "Hi", "max_output_tokens": 5} | change
    response = server.post("/v1/responses", {key: value for key, value in body.items() if value is not None})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_too_long_has_its_code(client):
    with pytest.raises(openai.BadRequestError) as long:
        create(client, input="tell " * 3000)
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "input")


def test_harmless_fields_change_nothing(server):
    body = {"input": "Hi", "max_output_tokens": 8, "temperature": 0}
    more = {"user": "u", "service_tier": "auto", "prompt_cache_key": "k", "include": ["reasoning.encrypted_content"],
            "truncation": "disabled", "max_tool_calls": 3, "text": {"verbosity": "low"}, "background": False,
            "reasoning": {"effort": "high", "summary": "auto"}, "safety_identifier": "s"}  # fmt: skip
    plain, changed = (server.ask("/v1/responses", body | extra)["output"] for extra in ({}, more))
    assert [item["content"] for item in plain] == [item["content"] for item in changed]


@pytest.mark.parametrize("keeps", [True, False], ids=["previous_response_id", "items"])
def test_an_agent_calls_two_tools_and_ends(client, keeps):
    """The model's words are forced; the loop around it is a client's own."""
    script = [CALL, "<think>\nOne more.\n</think>\n\n" + CALL.replace("Rome", "Oslo"), "It rains in Rome and snows in Oslo."]
    weather, asked = {"Rome": "rain", "Oslo": "snow"}, []
    history, new, previous = [], list(USER), None
    for says in script:
        if keeps:
            made = create(client, says, input=new, previous_response_id=previous, tools=[TOOL])
        else:
            history += new
            made = create(client, says, input=history, store=False, tools=[TOOL])
            history += [item.to_dict() for item in made.output]
        previous, new = made.id, []
        for item in made.output:
            if item.type == "function_call":
                city = json.loads(item.arguments)["city"]
                asked.append(city)
                new.append({"type": "function_call_output", "call_id": item.call_id, "output": weather[city]})
        if not new:
            break
    assert asked == ["Rome", "Oslo"]
    assert made.output_text == script[-1]
