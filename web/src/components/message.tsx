import { useMemo } from "preact/hooks";
import type { ToolCall } from "../api/chat_stream.ts";
import { regenerate } from "../state/chat.ts";
import type { AssistantTurn, Turn, UserTurn } from "../state/chat.ts";
import { formatCount, formatRate, formatSeconds } from "../text/format.ts";
import { CopyButton } from "./copy_button.tsx";
import { RetryIcon } from "./icons.tsx";
import { Markdown } from "./markdown.tsx";

function Thinking({ turn }: { turn: AssistantTurn }) {
  if (turn.thinking === "") return null;
  const start = turn.firstToken ?? turn.started;
  const end = turn.thought ?? turn.ended;
  const label = end === null ? "Thinking…" : `Thought for ${formatSeconds((end - start) / 1000)}`;
  return (
    <details class="thinking">
      <summary>{label}</summary>
      <div class="thinking-text">{turn.thinking}</div>
    </details>
  );
}

// Arguments are JSON once they are complete; until then, and where they are not, they are shown as they came.
function pretty(json: string): string {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}

function ToolCallView({ call }: { call: ToolCall }) {
  return (
    <div class="tool-call">
      <div class="tool-head">
        <span class="tool-label">Tool call</span>
        <code>{call.name || "…"}</code>
      </div>
      {call.arguments !== "" && (
        <pre tabIndex={0}>
          <code>{pretty(call.arguments)}</code>
        </pre>
      )}
    </div>
  );
}

function facts({ answer, state, started, firstToken, ended }: AssistantTurn): string {
  const out: string[] = [];
  if (state === "stopped") out.push("Stopped");
  if (answer.finishReason === "length") out.push("Cut at the token limit");
  const { usage } = answer;
  if (usage !== null) {
    out.push(`${formatCount(usage.completionTokens)} ${usage.completionTokens === 1 ? "token" : "tokens"}`);
    // The first token is the prompt's work.
    if (firstToken !== null && ended !== null && usage.completionTokens > 1 && ended > firstToken) {
      out.push(`${formatRate(((usage.completionTokens - 1) * 1000) / (ended - firstToken))} tokens/s`);
    }
  }
  if (firstToken !== null) out.push(`first token after ${formatSeconds((firstToken - started) / 1000)}`);
  return out.join(" · ");
}

function Answer({ turn, isLast }: { turn: AssistantTurn; isLast: boolean }) {
  const over = turn.state !== "streaming";
  const waiting = !over && turn.firstToken === null;
  const empty = turn.content.trim() === "" && turn.thinking === "" && turn.answer.toolCalls.length === 0;
  return (
    <article class="answer" aria-label="Answer" aria-busy={!over} data-state={turn.state}>
      <Thinking turn={turn} />
      {turn.content.trim() !== "" && <Markdown text={turn.content} />}
      {turn.answer.toolCalls.map((call) => (
        <ToolCallView call={call} />
      ))}
      {waiting && (
        <p class="waiting" aria-label="Waiting for the first token">
          <span />
          <span />
          <span />
        </p>
      )}
      {turn.state === "done" && empty && <p class="quiet">The model ended its answer without any text.</p>}
      {turn.error !== "" && (
        <p class="error" role="alert">
          {turn.error}
        </p>
      )}
      {over && (
        <footer class="answer-foot">
          {turn.content.trim() !== "" && <CopyButton text={turn.content.trim()} what="this answer" />}
          {isLast && (
            <button type="button" class="small-button" onClick={() => regenerate()}>
              <RetryIcon />
              <span>{turn.state === "failed" ? "Try again" : "Regenerate"}</span>
            </button>
          )}
          <span class="facts">{facts(turn)}</span>
        </footer>
      )}
    </article>
  );
}

function Question({ turn }: { turn: UserTurn }) {
  return (
    <article class="question" aria-label="You">
      {turn.content}
    </article>
  );
}

// Turns that did not change are not rendered again.
export function Message({ turn, isLast }: { turn: Turn; isLast: boolean }) {
  return useMemo(
    () => (turn.role === "user" ? <Question turn={turn} /> : <Answer turn={turn} isLast={isLast} />),
    [turn, isLast],
  );
}
