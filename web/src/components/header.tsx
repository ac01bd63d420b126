import type { ComponentChildren } from "preact";
import { monitor } from "../state/monitor.ts";
import { countChanged, settings } from "../state/settings.ts";
import { useStore } from "../state/store.ts";
import { switchTheme, theme } from "../state/theme.ts";
import { formatStrategy } from "../text/format.ts";
import { ActivityIcon, Mark, MoonIcon, PlusIcon, SlidersIcon, SunIcon } from "./icons.tsx";

export type Panel = "activity" | "settings" | null;

const linkNames = { connecting: "Connecting", up: "Connected", lost: "Not connected", refused: "No access" };

interface PanelButtonProps {
  name: "activity" | "settings";
  label: string;
  panel: Panel;
  onPanel: (panel: Panel) => void;
  children: ComponentChildren;
}

function PanelButton({ name, label, panel, onPanel, children }: PanelButtonProps) {
  const open = panel === name;
  return (
    <button
      type="button"
      class="bar-button"
      id={`toggle-${name}`}
      aria-label={label}
      aria-expanded={open}
      aria-controls="panel"
      onClick={() => onPanel(open ? null : name)}
    >
      {children}
    </button>
  );
}

interface HeaderProps {
  panel: Panel;
  onPanel: (panel: Panel) => void;
  onNewChat: () => void;
}

export function Header({ panel, onPanel, onNewChat }: HeaderProps) {
  const { link, info } = useStore(monitor);
  const { dark } = useStore(theme);
  const changed = countChanged(useStore(settings));
  const settingsLabel = changed === 0 ? "Settings" : `Settings, ${changed} changed`;
  return (
    <header class="bar">
      <Mark />
      <h1>Chorale</h1>
      <p class="served">
        <span class={`lamp lamp-${link}`} role="img" aria-label={linkNames[link]} title={linkNames[link]} />
        {info?.model && <span class="model">{info.model}</span>}
        {info?.strategy && <code class="strategy">{formatStrategy(info.strategy)}</code>}
      </p>
      <button type="button" class="bar-button" aria-label="New chat" onClick={onNewChat}>
        <PlusIcon />
        <span>New chat</span>
      </button>
      <PanelButton name="activity" label="Activity" panel={panel} onPanel={onPanel}>
        <ActivityIcon />
        <span>Activity</span>
      </PanelButton>
      <PanelButton name="settings" label={settingsLabel} panel={panel} onPanel={onPanel}>
        <SlidersIcon />
        <span>Settings</span>
        {changed > 0 && <i class="dot" />}
      </PanelButton>
      <button
        type="button"
        class="bar-button"
        aria-label={dark ? "Light theme" : "Dark theme"}
        title={dark ? "Light theme" : "Dark theme"}
        onClick={switchTheme}
      >
        {dark ? <SunIcon /> : <MoonIcon />}
      </button>
    </header>
  );
}
