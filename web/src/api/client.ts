// Calls to the server. Addresses are relative, so that the page also works behind a proxy that adds a folder.
import { asFields, asNumber, asText, emptyAnswer, errorMessage, withFrame } from "./chat_stream.ts";
import type { Answer } from "./chat_stream.ts";
import { SseParser } from "./sse.ts";

// What went wrong, in words for the reader.
export class ApiError extends Error {
  readonly status: number; // of HTTP; 0 where none came
  constructor(message: string, status = 0) {
    super(message);
    this.status = status;
  }
}

export interface ChatMessage {
  role: "system" | "user" | "assistant";
  content: string;
}

export interface ServerInfo {
  model: string | null;
  dtype: string | null;
  device: string | null; // null where it is the CPU
  instructionSet: string | null;
  strategy: string | null;
  numExperts: number | null;
  contextLength: number | null;
  kvTokens: number | null;
  version: string | null;
}

function headers(apiKey: string): Record<string, string> {
  return apiKey === "" ? {} : { Authorization: `Bearer ${apiKey}` };
}

async function failure(response: Response): Promise<ApiError> {
  let message: string | null = null;
  try {
    message = errorMessage(await response.json());
  } catch {
    // A proxy answers with a page of its own.
  }
  // The server's own words are for programs: they tell which headers there are.
  if (response.status === 401) message = "A valid API key is needed to use this server.";
  const status = `${response.status} ${response.statusText}`.trim();
  return new ApiError(message ?? `The server answered ${status}.`, response.status);
}

const kPatience = 5000; // milliseconds for an answer to a small question

async function get(path: string, apiKey: string): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, {
      headers: headers(apiKey),
      cache: "no-store",
      signal: AbortSignal.timeout(kPatience),
    });
  } catch {
    throw new ApiError("The server cannot be reached.");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

export async function fetchMetrics(apiKey: string): Promise<string> {
  const response = await get("metrics", apiKey);
  try {
    return await response.text();
  } catch {
    throw new ApiError("The connection to the server broke.");
  }
}

async function getJson(path: string, apiKey: string): Promise<Record<string, unknown>> {
  const response = await get(path, apiKey);
  try {
    return asFields(await response.json());
  } catch {
    throw new ApiError(`The server's answer to ${path} cannot be read.`);
  }
}

export async function fetchServerInfo(apiKey: string): Promise<ServerInfo> {
  const info = await getJson("get_server_info", apiKey).catch((error: unknown) => {
    // A server without this endpoint still tells its model below.
    if (error instanceof ApiError && error.status === 404) return {} as Record<string, unknown>;
    throw error;
  });
  const text = (name: string): string | null => asText(info[name]) || null;
  const number = (name: string): number | null => asNumber(info[name]) ?? null;
  const out: ServerInfo = {
    model: text("served_model_name"),
    dtype: text("dtype"),
    device: text("device_name"),
    instructionSet: text("instruction_set"),
    strategy: text("strategy"),
    numExperts: number("num_experts"),
    contextLength: number("max_context_len"),
    kvTokens: number("max_total_num_tokens"),
    version: text("version"),
  };
  if (out.model !== null && out.contextLength !== null) return out;
  const { data } = await getJson("v1/models", apiKey);
  const first = asFields(Array.isArray(data) ? data[0] : undefined);
  out.model ??= asText(first["id"]) || null;
  out.contextLength ??= asNumber(first["max_model_len"]) ?? null;
  return out;
}

export interface StrategyChange {
  strategy: string; // that is in force
  pauseSeconds: number | null; // in which no request went on
}

// Answers when the strategy is in force, which takes as long as it takes.
export async function switchStrategy(strategy: string, apiKey: string): Promise<StrategyChange> {
  let response: Response;
  try {
    response = await fetch("switch_strategy", {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers(apiKey) },
      body: JSON.stringify({ strategy }),
    });
  } catch {
    throw new ApiError("The server cannot be reached.");
  }
  if (!response.ok) throw await failure(response);
  let fields: Record<string, unknown>;
  try {
    fields = asFields(await response.json());
  } catch {
    throw new ApiError("The server's answer to switch_strategy cannot be read.");
  }
  return { strategy: asText(fields["strategy"]) || strategy, pauseSeconds: asNumber(fields["pause_seconds"]) ?? null };
}

export interface ChatRequest {
  body: Record<string, unknown>;
  apiKey: string;
  signal: AbortSignal;
  onAnswer: (answer: Answer) => void; // called with all that has come so far
}

// Ends when the answer is complete. Throws an ApiError, or the signal's reason after an abort.
export async function streamChat({ body, apiKey, signal, onAnswer }: ChatRequest): Promise<void> {
  let response: Response;
  try {
    response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers(apiKey) },
      body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
      signal,
    });
  } catch {
    signal.throwIfAborted();
    throw new ApiError("The server cannot be reached.");
  }
  if (!response.ok) throw await failure(response);
  if (response.body === null) throw new ApiError("The server sent no answer.");

  const reader = response.body.getReader();
  const parser = new SseParser();
  let answer = emptyAnswer;
  for (;;) {
    let piece: ReadableStreamReadResult<Uint8Array>;
    try {
      piece = await reader.read();
    } catch {
      signal.throwIfAborted();
      throw new ApiError("The connection broke before the answer was complete.");
    }
    if (piece.done) break;
    for (const event of parser.push(piece.value)) {
      if (event.data === "[DONE]") return void reader.cancel().catch(() => undefined);
      answer = readFrame(answer, event.data);
      onAnswer(answer);
    }
  }
  if (answer.finishReason === null) throw new ApiError("The connection ended before the answer was complete.");
}

function readFrame(answer: Answer, data: string): Answer {
  let frame: unknown;
  try {
    frame = JSON.parse(data);
  } catch {
    throw new ApiError("The server sent something that is not JSON.");
  }
  const error = errorMessage(frame);
  if (error !== null) throw new ApiError(error);
  return withFrame(answer, frame);
}
