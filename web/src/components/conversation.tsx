import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { chat, send } from "../state/chat.ts";
import type { Turn } from "../state/chat.ts";
import { monitor } from "../state/monitor.ts";
import { useStore } from "../state/store.ts";
import { DownIcon, Mark } from "./icons.tsx";
import { Message } from "./message.tsx";

const suggestions = [
  "Tell me a story about a dragon.",
  "Tell me a story about a fox and a king.",
  "Explain a mixture of experts in three sentences.",
  "Write a Python function that finds palindromes.",
];

function EmptyState({ onSend }: { onSend: (text: string) => void }) {
  const { info } = useStore(monitor);
  return (
    <div class="empty">
      <Mark />
      <h2>{info?.model ? `Chat with ${info.model}` : "Start a chat"}</h2>
      <p class="quiet">Write a message below, or begin with one of these.</p>
      <ul class="suggestions">
        {suggestions.map((text) => (
          <li key={text}>
            <button type="button" onClick={() => onSend(text)}>
              {text}
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}

// One short sentence for screen readers when the state of the answer changes.
function announcement(turns: Turn[]): string {
  const last = turns.at(-1);
  if (last?.role !== "assistant") return "";
  switch (last.state) {
    case "streaming":
      return "Answering";
    case "done":
      return "The answer is complete";
    case "stopped":
      return "Stopped";
    case "failed":
      return ""; // the error is an alert of its own
  }
}

const kNearEnd = 48; // pixels

interface ConversationProps {
  onInvalid: () => void;
  onSent: () => void;
}

export function Conversation({ onInvalid, onSent }: ConversationProps) {
  const { turns } = useStore(chat);
  const scroller = useRef<HTMLDivElement>(null);
  const follow = useRef(true); // until the reader scrolls up
  const [away, setAway] = useState(false);

  const toEnd = (): void => {
    const area = scroller.current;
    if (area !== null) area.scrollTop = area.scrollHeight;
  };
  const onScroll = (): void => {
    const area = scroller.current;
    if (area === null) return;
    follow.current = area.scrollHeight - area.scrollTop - area.clientHeight < kNearEnd;
    setAway(!follow.current);
  };
  useLayoutEffect(() => {
    if (follow.current) toEnd();
  }, [turns]);
  useEffect(() => {
    follow.current = true; // a new question is looked at
    toEnd();
  }, [turns.length]);

  const ask = (text: string): void => {
    if (send(text)) onSent();
    else onInvalid();
  };
  const last = turns.length - 1;
  return (
    <div class="conversation">
      <div class="scroller" ref={scroller} onScroll={onScroll} tabIndex={0} role="region" aria-label="Conversation">
        {turns.length === 0 ? (
          <EmptyState onSend={ask} />
        ) : (
          <div class="turns" role="log" aria-live="polite" aria-label="Messages">
            {turns.map((turn, i) => (
              <Message key={turn.id} turn={turn} isLast={i === last} />
            ))}
          </div>
        )}
      </div>
      {away && turns.length > 0 && (
        <button type="button" class="to-end" aria-label="To the latest message" onClick={toEnd}>
          <DownIcon />
        </button>
      )}
      <p class="offscreen" role="status">
        {announcement(turns)}
      </p>
    </div>
  );
}
