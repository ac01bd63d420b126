import { useEffect, useRef, useState } from "preact/hooks";
import { chat, newChat, stop } from "../state/chat.ts";
import { monitor } from "../state/monitor.ts";
import { useStore } from "../state/store.ts";
import { ActivityPanel } from "./activity_panel.tsx";
import { Composer } from "./composer.tsx";
import { Conversation } from "./conversation.tsx";
import { Header } from "./header.tsx";
import type { Panel } from "./header.tsx";
import { CloseIcon } from "./icons.tsx";
import { SettingsPanel } from "./settings_panel.tsx";

// As in style.css: from here on the panel stands beside the chat instead of covering it.
const wide = window.matchMedia("(min-width: 60rem)");

function Banner({ onSettings }: { onSettings: () => void }) {
  const { link, problem } = useStore(monitor);
  return (
    <div role="alert">
      {link === "lost" && (
        <p class="banner">
          <span>{/[.!?]$/.test(problem) ? problem : `${problem}.`} Trying again every second.</span>
        </p>
      )}
      {link === "refused" && (
        <p class="banner">
          <span>{problem}</span>
          <button type="button" class="plain-button" onClick={onSettings}>
            Enter an API key
          </button>
        </p>
      )}
    </div>
  );
}

interface SideProps {
  panel: "activity" | "settings";
  onClose: () => void;
}

function Side({ panel, onClose }: SideProps) {
  const title = panel === "activity" ? "Activity" : "Settings";
  return (
    <aside class="side" id="panel" aria-labelledby="panel-title">
      <div class="side-head">
        <h2 id="panel-title">{title}</h2>
        <button type="button" class="small-button" aria-label={`Close ${title.toLowerCase()}`} onClick={onClose}>
          <CloseIcon />
        </button>
      </div>
      {panel === "activity" ? <ActivityPanel /> : <SettingsPanel />}
    </aside>
  );
}

export function App() {
  const [panel, setPanel] = useState<Panel>(wide.matches ? "activity" : null);
  const input = useRef<HTMLTextAreaElement>(null);

  const closePanel = (): void => {
    if (panel !== null) document.getElementById(`toggle-${panel}`)?.focus();
    setPanel(null);
  };
  const show = (id: string): void => {
    setPanel("settings");
    setTimeout(() => document.getElementById(id)?.focus()); // once it is there
  };
  const showInvalid = (): void => {
    setPanel("settings");
    setTimeout(() => document.querySelector<HTMLElement>('[aria-invalid="true"]')?.focus());
  };
  const begin = (): void => {
    newChat();
    if (!wide.matches) setPanel(null);
    setTimeout(() => input.current?.focus());
  };

  useEffect(() => {
    // A touch keyboard would cover the suggestions.
    if (wide.matches) input.current?.focus();
  }, []);
  useEffect(() => {
    const onKeyDown = (event: KeyboardEvent): void => {
      if (event.key !== "Escape" || event.isComposing) return;
      if (chat.get().streaming) stop();
      else if (panel !== null && !wide.matches) closePanel();
    };
    document.addEventListener("keydown", onKeyDown);
    return () => document.removeEventListener("keydown", onKeyDown);
  }, [panel]);

  return (
    <>
      <Header panel={panel} onPanel={setPanel} onNewChat={begin} />
      <Banner onSettings={() => show("setting-key")} />
      <div class={panel === null ? "layout" : "layout with-side"}>
        <main>
          <Conversation onInvalid={showInvalid} onSent={() => input.current?.focus()} />
          <Composer input={input} onInvalid={showInvalid} />
        </main>
        {panel !== null && <Side panel={panel} onClose={closePanel} />}
      </div>
    </>
  );
}
