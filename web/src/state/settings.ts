// What the reader sets: sampling, system prompt, key. A field left empty is not sent, so the model's default holds.
import { asFields, asText } from "../api/chat_stream.ts";
import { load, save } from "./saved.ts";
import { Store } from "./store.ts";

export interface NumberField {
  name: string; // of the request's field
  label: string;
  hint: string;
  min: number;
  max: number;
  step: number;
  integer: boolean;
}

function real(name: string, label: string, min: number, max: number, step: number, hint: string): NumberField {
  return { name, label, hint, min, max, step, integer: false };
}

function integer(name: string, label: string, min: number, max: number, hint: string): NumberField {
  return { name, label, hint, min, max, step: 1, integer: true };
}

export const numberFields: NumberField[] = [
  real("temperature", "Temperature", 0, 100, 0.1, "0: always the likeliest token."),
  real("top_p", "Top p", 0, 1, 0.05, "The likeliest tokens with this share of probability."),
  integer("top_k", "Top k", -1, 1e9, "So many of the likeliest tokens; 0 or -1: all."),
  real("min_p", "Min p", 0, 1, 0.01, "The least likelihood, relative to the likeliest."),
  integer("max_tokens", "Max tokens", 1, 1e9, "The longest answer, thinking included."),
  integer("seed", "Seed", -Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER, "The same seed gives the same answer."),
  real("presence_penalty", "Presence penalty", -2, 2, 0.1, "Against tokens that have come before."),
  real("frequency_penalty", "Frequency penalty", -2, 2, 0.1, "The same, for each time they came."),
  real("repetition_penalty", "Repetition penalty", 0, 100, 0.05, "Makes them less likely; 1: no effect."),
];

export type Thinking = "default" | "on" | "off";

export interface Settings {
  systemPrompt: string;
  thinking: Thinking;
  numbers: Record<string, string>; // as typed
  apiKey: string;
}

const empty: Settings = { systemPrompt: "", thinking: "default", numbers: {}, apiKey: "" };

function restore(): Settings {
  let saved: Record<string, unknown> = {};
  try {
    saved = asFields(JSON.parse(load("local", "settings") || "{}"));
  } catch {
    // Something else wrote it.
  }
  const thinking = saved["thinking"];
  const numbers = asFields(saved["numbers"]);
  return {
    systemPrompt: asText(saved["systemPrompt"]),
    thinking: thinking === "on" || thinking === "off" ? thinking : "default",
    numbers: Object.fromEntries(numberFields.map(({ name }) => [name, asText(numbers[name])])),
    apiKey: load("session", "key"),
  };
}

export const settings = new Store<Settings>(restore());

settings.subscribe(() => {
  const { apiKey, ...kept } = settings.get();
  save("local", "settings", JSON.stringify(kept));
  save("session", "key", apiKey); // a secret: gone with the tab
});

export function resetSettings(): void {
  settings.set({ ...empty, apiKey: settings.get().apiKey });
}

// How many settings differ from the defaults.
export function countChanged({ systemPrompt, thinking, numbers }: Settings): number {
  const filled = numberFields.filter(({ name }) => (numbers[name] ?? "").trim() !== "").length;
  return filled + (systemPrompt.trim() === "" ? 0 : 1) + (thinking === "default" ? 0 : 1);
}

// Why the text cannot be used; null where it can, and where it is empty.
export function fieldError(field: NumberField, text: string): string | null {
  const trimmed = text.trim();
  if (trimmed === "") return null;
  const value = Number(trimmed);
  if (!Number.isFinite(value) || (field.integer && !Number.isSafeInteger(value))) {
    return field.integer ? "A whole number, please." : "A number, please.";
  }
  if (value < field.min) return `At least ${field.min}.`;
  if (value > field.max) return `At most ${field.max}.`;
  return null;
}

export function hasErrors({ numbers }: Settings): boolean {
  return numberFields.some((field) => fieldError(field, numbers[field.name] ?? "") !== null);
}

// The request's fields for these settings, which have no errors.
export function requestFields({ numbers, thinking }: Settings): Record<string, unknown> {
  const out: Record<string, unknown> = {};
  for (const { name } of numberFields) {
    const text = (numbers[name] ?? "").trim();
    if (text !== "") out[name] = Number(text);
  }
  if (thinking !== "default") out["chat_template_kwargs"] = { enable_thinking: thinking === "on" };
  return out;
}
