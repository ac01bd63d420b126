"""Cases of /v1/responses and /v1/messages with the official Python clients, and the judging of what any client got."""

import json

import anthropic
import jsonschema
import openai

WEATHER = {"Rome": "rain", "Oslo": "snow"}
# What the clients know by name; the rest goes through extra_body.
NAMED = {"responses": ("model", "input", "tools"), "messages": ("model", "messages", "max_tokens", "tools")}


def split(endpoint, body):
    named = {name: body[name] for name in NAMED[endpoint] if name in body}
    return named | {"extra_body": {name: value for name, value in body.items() if name not in named}}


class Responses:
    def __init__(self, server):
        self.client = server.client()

    def create(self, body):
        return self.client.responses.create(**split("responses", body)).to_dict()

    def stream(self, body):
        with self.client.responses.stream(**split("responses", body)) as events:
            seen = list(events)
            # The helper takes an answer that is cut for none; OpenAI's own ends with this event, too.
            last = seen[-1].response if seen[-1].type == "response.incomplete" else events.get_final_response()
        text = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
        return last.to_dict(), text

    def turn(self, body):
        made = self.create(body)
        calls = [item for item in made["output"] if item["type"] == "function_call"]
        cities = [json.loads(call["arguments"])["city"] for call in calls]
        results = [{"type": "function_call_output", "call_id": call["call_id"], "output": WEATHER[city]}
                   for call, city in zip(calls, cities, strict=True)]  # fmt: skip
        body["input"] = body["input"] + made["output"] + results
        return cities, made


class Messages:
    def __init__(self, server):
        self.client = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=120)

    def create(self, body):
        return self.client.messages.create(**split("messages", body)).to_dict()

    def stream(self, body):
        with self.client.messages.stream(**split("messages", body)) as events:
            text = "".join(events.text_stream)
            return events.get_final_message().to_dict(), text

    def turn(self, body):
        made, _ = self.stream(body)
        calls = [block for block in made["content"] if block["type"] == "tool_use"]
        cities = [call["input"]["city"] for call in calls]
        results = [{"type": "tool_result", "tool_use_id": call["id"], "content": WEATHER[call["input"]["city"]]} for call in calls]
        body["messages"] = body["messages"] + [{"role": "assistant", "content": made["content"]}, {"role": "user", "content": results}]
        return cities, made


def run_python(server, endpoint, body, script=None):
    door = {"responses": Responses, "messages": Messages}[endpoint](server)
    try:
        if script is None:
            whole = door.create(body)
            streamed, text = door.stream(body)
            return {"whole": whole, "streamed": streamed, "text": text}
        asked, body = [], dict(body)
        for turn in script:
            body |= turn
            cities, made = door.turn(body)
            if not cities:
                return {"asked": asked, "text": "".join(text for kind, text in items(endpoint, made) if kind == "text")}
            asked += cities
        return {"asked": asked}
    except (openai.APIStatusError, anthropic.APIStatusError) as error:
        return {"error": {"status": error.status_code, "message": error.message}}


def items(endpoint, answer):
    """[kind, what] of an answer's parts, in the same form for both doors."""
    out = []
    for part in answer["output"] if endpoint == "responses" else answer["content"]:
        kind = part["type"]
        if kind == "function_call":
            out.append(["call", {"name": part["name"], "arguments": json.loads(part["arguments"])}])
        elif kind == "tool_use":
            out.append(["call", {"name": part["name"], "arguments": part["input"]}])
        elif kind == "thinking":
            out.append(["reasoning", part["thinking"]])
        elif kind == "text":
            out.append(["text", part["text"]])
        else:
            out.append([{"message": "text", "reasoning": "reasoning"}[kind], "".join(piece["text"] for piece in part["content"])])
    return out


def judge(case, result):
    expect, endpoint = case["expect"], case["endpoint"]
    if "error" in expect:
        assert result["error"]["status"] == expect["error"]["status"]
        assert expect["error"]["named"] in result["error"]["message"]
        return
    assert "error" not in result, result
    if "agent" in expect:
        assert result == {"asked": expect["agent"], "text": expect["text"]}
        return
    whole, streamed = result["whole"], result["streamed"]
    got = items(endpoint, whole)
    assert got == items(endpoint, streamed)
    assert result["text"] == "".join(what for kind, what in got if kind == "text")
    assert whole["usage"]["output_tokens"] == streamed["usage"]["output_tokens"]
    status = "status" if endpoint == "responses" else "stop_reason"
    assert whole[status] == streamed[status] == expect.get("status", whole[status])
    if "items" in expect:
        assert got == expect["items"]
    if "kinds" in expect:
        assert [kind for kind, _ in got] == expect["kinds"]
    if "tokens" in expect:
        assert whole["usage"]["output_tokens"] == expect["tokens"]
    if "schema" in expect:
        jsonschema.validate(json.loads(result["text"]), expect["schema"])
