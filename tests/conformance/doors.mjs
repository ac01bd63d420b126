// Cases of /v1/responses and /v1/messages: whole, streamed through the client's helper, and as an agent's loop.
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const WEATHER = { Rome: "rain", Oslo: "snow" };

// What the two doors differ in.
function responsesDoor(url) {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
  return {
    create: (body) => client.responses.create(body),
    async stream(body) {
      let text = "";
      const stream = client.responses.stream(body).on("response.output_text.delta", (event) => (text += event.delta));
      return { streamed: await stream.finalResponse(), text };
    },
    async turn(body, turn) {
      const made = await client.responses.create({ ...body, ...turn });
      const calls = made.output.filter((item) => item.type === "function_call");
      const cities = calls.map((call) => JSON.parse(call.arguments).city);
      const results = calls.map((call, i) => ({ type: "function_call_output", call_id: call.call_id, output: WEATHER[cities[i]] }));
      body.input = [...body.input, ...made.output, ...results];
      return { cities, text: made.output_text };
    },
  };
}

function messagesDoor(url) {
  const client = new Anthropic({ baseURL: url, apiKey: "none", maxRetries: 0 });
  return {
    create: (body) => client.messages.create(body),
    async stream(body) {
      let text = "";
      const stream = client.messages.stream(body).on("text", (delta) => (text += delta));
      return { streamed: await stream.finalMessage(), text };
    },
    async turn(body, turn) {
      const made = await client.messages.stream({ ...body, ...turn }).finalMessage();
      const calls = made.content.filter((block) => block.type === "tool_use");
      const cities = calls.map((call) => call.input.city);
      const results = calls.map((call) => ({ type: "tool_result", tool_use_id: call.id, content: WEATHER[call.input.city] }));
      body.messages = [...body.messages, { role: "assistant", content: made.content }, { role: "user", content: results }];
      return { cities, text: made.content.map((block) => block.text ?? "").join("") };
    },
  };
}

export function doors(url) {
  const all = { responses: responsesDoor(url), messages: messagesDoor(url) };
  return async ({ endpoint, body, script }) => {
    const door = all[endpoint];
    try {
      if (!script) return { whole: await door.create(body), ...(await door.stream(body)) };
      const asked = [];
      for (const turn of script) {
        const { cities, text } = await door.turn(body, turn);
        if (cities.length === 0) return { asked, text };
        asked.push(...cities);
      }
      return { asked };
    } catch (error) {
      if (!(error instanceof OpenAI.APIError || error instanceof Anthropic.APIError)) throw error;
      return { error: { status: error.status, message: error.message } };
    }
  };
}
