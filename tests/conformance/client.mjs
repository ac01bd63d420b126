// Runs requests with the official clients: client.mjs URL FILE. FILE is a JSON list of {endpoint, body}. Prints a JSON
// list with {whole, chunks} for each, or {error: {status, param}}; for the doors of agents what doors.mjs gives.
// test_conformance.py judges them.
import { readFile } from "node:fs/promises";
import OpenAI from "openai";

import { doors } from "./doors.mjs";

const [url, file] = process.argv.slice(2);
const runAtDoor = doors(url);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });

async function run({ endpoint, body, script }) {
  if (endpoint === "responses" || endpoint === "messages") return runAtDoor({ endpoint, body, script });
  const create = (request) =>
    endpoint === "chat" ? client.chat.completions.create(request) : client.completions.create(request);
  try {
    const whole = await create(body);
    const chunks = [];
    for await (const chunk of await create({ ...body, stream: true, stream_options: { include_usage: true } })) {
      chunks.push(chunk);
    }
    return { whole, chunks };
  } catch (error) {
    if (!(error instanceof OpenAI.APIError)) throw error;
    return { error: { status: error.status, param: error.param } };
  }
}

const results = [];
for (const request of JSON.parse(await readFile(file, "utf8"))) results.push(await run(request));
process.stdout.write(JSON.stringify(results));
