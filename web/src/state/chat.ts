// The conversation, and the one answer that may be streaming.
import { emptyAnswer } from "../api/chat_stream.ts";
import type { Answer } from "../api/chat_stream.ts";
import { ApiError, streamChat } from "../api/client.ts";
import type { ChatMessage } from "../api/client.ts";
import { splitThinking } from "../text/thinking.ts";
import { monitor } from "./monitor.ts";
import { hasErrors, requestFields, settings } from "./settings.ts";
import { Store } from "./store.ts";

export interface UserTurn {
  role: "user";
  id: number;
  content: string;
}

// Times are of performance.now(), in milliseconds.
export interface AssistantTurn {
  role: "assistant";
  id: number;
  state: "streaming" | "done" | "stopped" | "failed";
  thinking: string;
  content: string;
  answer: Answer; // as the server tells it; thinking and content are made of it
  error: string;
  started: number;
  firstToken: number | null;
  thought: number | null; // when the thinking ended
  ended: number | null;
}

export type Turn = UserTurn | AssistantTurn;

interface Chat {
  turns: Turn[];
  streaming: boolean;
}

export const chat = new Store<Chat>({ turns: [], streaming: false });

let nextId = 1;
let controller: AbortController | null = null;

const kRedraw = 33; // milliseconds between two redrawings of an answer that streams

// What the model gets: its own thinking is not part of it, and answers without text are left out.
function messages(turns: Turn[]): ChatMessage[] {
  const out: ChatMessage[] = [];
  const systemPrompt = settings.get().systemPrompt.trim();
  if (systemPrompt !== "") out.push({ role: "system", content: systemPrompt });
  for (const turn of turns) {
    if (turn.content !== "") out.push({ role: turn.role, content: turn.content });
  }
  return out;
}

function withAnswer(turn: AssistantTurn, answer: Answer): AssistantTurn {
  const inContent = splitThinking(answer.content);
  const thinking = answer.reasoning !== "" ? answer.reasoning : inContent.thinking;
  const content = answer.reasoning !== "" ? answer.content : inContent.answer;
  const now = performance.now();
  const any = answer.content !== "" || answer.reasoning !== "" || answer.toolCalls.length > 0;
  const after = content.trim() !== "" || answer.toolCalls.length > 0;
  return {
    ...turn,
    answer,
    thinking: thinking.trim(),
    content,
    firstToken: turn.firstToken ?? (any ? now : null),
    thought: turn.thought ?? (thinking.trim() !== "" && after ? now : null),
  };
}

// Replaces the turn of this id, if the conversation still has it.
function update(id: number, change: (turn: AssistantTurn) => AssistantTurn): void {
  const { turns } = chat.get();
  chat.set({ turns: turns.map((turn) => (turn.role === "assistant" && turn.id === id ? change(turn) : turn)) });
}

async function answer(turns: Turn[]): Promise<void> {
  const id = nextId++;
  const mine = new AbortController();
  const { apiKey } = settings.get();
  const model = monitor.get().info?.model;
  const body = { ...(model ? { model } : {}), messages: messages(turns), ...requestFields(settings.get()) };
  const turn: AssistantTurn = {
    role: "assistant",
    id,
    state: "streaming",
    thinking: "",
    content: "",
    answer: emptyAnswer,
    error: "",
    started: performance.now(),
    firstToken: null,
    thought: null,
    ended: null,
  };
  controller = mine;
  chat.set({ turns: [...turns, turn], streaming: true });

  // Tokens can come faster than the page can be drawn.
  let pending: Answer | null = null;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const draw = (): void => {
    clearTimeout(timer);
    timer = undefined;
    const latest = pending;
    pending = null;
    if (latest !== null) update(id, (old) => withAnswer(old, latest));
  };
  const onAnswer = (latest: Answer): void => {
    pending = latest;
    timer ??= setTimeout(draw, kRedraw);
  };

  let outcome: Pick<AssistantTurn, "state" | "error"> = { state: "done", error: "" };
  try {
    await streamChat({ body, apiKey, signal: mine.signal, onAnswer });
  } catch (error) {
    if (mine.signal.aborted) outcome = { state: "stopped", error: "" };
    else outcome = { state: "failed", error: error instanceof ApiError ? error.message : String(error) };
  }
  draw();
  update(id, (old) => ({ ...old, ...outcome, ended: performance.now() }));
  if (controller === mine) {
    controller = null;
    chat.set({ streaming: false });
  }
}

// False where nothing was sent: an answer is streaming, the text is empty, or a setting cannot be used.
export function send(text: string): boolean {
  const content = text.trim();
  if (content === "" || chat.get().streaming || hasErrors(settings.get())) return false;
  const question: UserTurn = { role: "user", id: nextId++, content };
  void answer([...chat.get().turns, question]);
  return true;
}

// Asks again for the last answer.
export function regenerate(): boolean {
  const { turns, streaming } = chat.get();
  if (streaming || hasErrors(settings.get())) return false;
  const question = turns.findLastIndex((turn) => turn.role === "user");
  if (question < 0) return false;
  void answer(turns.slice(0, question + 1));
  return true;
}

export function stop(): void {
  controller?.abort();
}

export function newChat(): void {
  stop();
  controller = null;
  chat.set({ turns: [], streaming: false });
}
