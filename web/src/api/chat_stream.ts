// What a chat answer's stream says, one frame at a time. Nothing of a frame is trusted to have the right type.

export interface ToolCall {
  name: string;
  arguments: string; // JSON text, perhaps not complete yet
}

export interface Usage {
  promptTokens: number;
  completionTokens: number;
  cachedTokens: number;
}

export interface Answer {
  content: string;
  reasoning: string;
  toolCalls: ToolCall[];
  finishReason: string | null;
  usage: Usage | null;
}

export const emptyAnswer: Answer = { content: "", reasoning: "", toolCalls: [], finishReason: null, usage: null };

type Fields = Record<string, unknown>;

export function asFields(value: unknown): Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : {};
}

export function asText(value: unknown): string {
  return typeof value === "string" ? value : "";
}

export function asNumber(value: unknown): number | undefined {
  return typeof value === "number" && Number.isFinite(value) ? value : undefined;
}

// The message of {"error": {"message"}} or {"error": "..."}; null where the value has no error.
export function errorMessage(value: unknown): string | null {
  const error = asFields(value)["error"];
  if (error === undefined || error === null) return null;
  return asText(error) || asText(asFields(error)["message"]) || "The server reported an error without a message.";
}

const kMostToolCalls = 256; // an index from the network must not make a list of any size

function withToolCalls(calls: ToolCall[], fragments: unknown): ToolCall[] {
  if (!Array.isArray(fragments)) return calls;
  const out = [...calls];
  for (const [position, fragment] of fragments.entries()) {
    const { index, function: part } = asFields(fragment);
    const at = asNumber(index) ?? position;
    if (!Number.isInteger(at) || at < 0 || at >= kMostToolCalls) continue;
    while (out.length <= at) out.push({ name: "", arguments: "" });
    const call = out[at] ?? { name: "", arguments: "" };
    const { name, arguments: text } = asFields(part);
    out[at] = { name: call.name + asText(name), arguments: call.arguments + asText(text) };
  }
  return out;
}

function readUsage(value: unknown): Usage | null {
  const usage = asFields(value);
  const prompt = asNumber(usage["prompt_tokens"]);
  const completion = asNumber(usage["completion_tokens"]);
  if (prompt === undefined || completion === undefined) return null;
  const cached = asNumber(asFields(usage["prompt_tokens_details"])["cached_tokens"]) ?? 0;
  return { promptTokens: prompt, completionTokens: completion, cachedTokens: cached };
}

// The answer with one more frame of the stream.
export function withFrame(answer: Answer, frame: unknown): Answer {
  const { choices, usage } = asFields(frame);
  const choice = asFields(Array.isArray(choices) ? choices[0] : undefined);
  const delta = asFields(choice["delta"]);
  return {
    content: answer.content + asText(delta["content"]),
    reasoning: answer.reasoning + asText(delta["reasoning_content"]),
    toolCalls: withToolCalls(answer.toolCalls, delta["tool_calls"]),
    finishReason: asText(choice["finish_reason"]) || answer.finishReason,
    usage: readUsage(usage) ?? answer.usage,
  };
}
