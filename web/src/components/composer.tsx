import type { RefObject } from "preact";
import { useLayoutEffect, useState } from "preact/hooks";
import { chat, send, stop } from "../state/chat.ts";
import { hasErrors, settings } from "../state/settings.ts";
import { useStore } from "../state/store.ts";
import { SendIcon, StopIcon } from "./icons.tsx";

const kMostHeight = 240; // pixels, then it scrolls

interface ComposerProps {
  input: RefObject<HTMLTextAreaElement | null>;
  onInvalid: () => void; // a setting keeps the message from being sent
}

export function Composer({ input, onInvalid }: ComposerProps) {
  const { streaming } = useStore(chat);
  const [text, setText] = useState("");

  useLayoutEffect(() => {
    const area = input.current;
    if (area === null) return;
    area.style.height = "auto";
    area.style.height = `${Math.min(area.scrollHeight, kMostHeight)}px`;
  }, [text]);

  const submit = (): void => {
    if (hasErrors(settings.get())) onInvalid();
    else if (send(text)) setText("");
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    // While an input method composes, Enter is its own.
    // (Safari ends the composition before this event; its key code tells.)
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    submit();
  };
  const stopAndStay = (): void => {
    stop();
    input.current?.focus();
  };

  return (
    <div class="composer">
      <div class="composer-box">
        <label class="offscreen" for="message">
          Message
        </label>
        <textarea
          id="message"
          ref={input}
          rows={1}
          placeholder="Write a message"
          value={text}
          aria-describedby="composer-hint"
          onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={onKeyDown}
        />
        {streaming ? (
          <button type="button" class="send stop" aria-label="Stop" title="Stop (Esc)" onClick={stopAndStay}>
            <StopIcon />
          </button>
        ) : (
          <button
            type="button"
            class="send"
            aria-label="Send"
            title="Send (Enter)"
            disabled={text.trim() === ""}
            onClick={submit}
          >
            <SendIcon />
          </button>
        )}
      </div>
      <p class="hint" id="composer-hint">
        <kbd>Enter</kbd> sends, <kbd>Shift</kbd>+<kbd>Enter</kbd> adds a line, <kbd>Esc</kbd> stops
      </p>
    </div>
  );
}
