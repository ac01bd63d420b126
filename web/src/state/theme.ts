// Light or dark: the system's choice until the reader makes one.
import { load, save } from "./saved.ts";
import { Store } from "./store.ts";

export type Choice = "system" | "light" | "dark";

interface Theme {
  choice: Choice;
  dark: boolean;
}

const system = window.matchMedia("(prefers-color-scheme: dark)");

function themeOf(choice: Choice): Theme {
  return { choice, dark: choice === "system" ? system.matches : choice === "dark" };
}

function restore(): Choice {
  const saved = load("local", "theme");
  return saved === "light" || saved === "dark" ? saved : "system";
}

function apply(): void {
  document.documentElement.dataset["theme"] = theme.get().dark ? "dark" : "light";
}

export const theme = new Store<Theme>(themeOf(restore()));

theme.subscribe(apply);
system.addEventListener("change", () => theme.set(themeOf(theme.get().choice)));
apply();

// The other one. Where that is what the system has, the system is followed again.
export function switchTheme(): void {
  const dark = !theme.get().dark;
  const choice: Choice = dark === system.matches ? "system" : dark ? "dark" : "light";
  save("local", "theme", choice === "system" ? "" : choice);
  theme.set(themeOf(choice));
}
