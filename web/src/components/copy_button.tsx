import { useEffect, useState } from "preact/hooks";
import { CheckIcon, CopyIcon } from "./icons.tsx";

// navigator.clipboard is there in secure contexts alone: not over plain HTTP from another host.
async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const focused = document.activeElement;
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "offscreen";
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    if (focused instanceof HTMLElement) focused.focus();
    return copied;
  }
}

const kShown = 1500; // milliseconds

export function CopyButton({ text, what }: { text: string; what: string }) {
  const [outcome, setOutcome] = useState<"" | "Copied" | "Not copied">("");
  useEffect(() => {
    if (outcome === "") return undefined;
    const timer = setTimeout(() => setOutcome(""), kShown);
    return () => clearTimeout(timer);
  }, [outcome]);
  const copy = async (): Promise<void> => setOutcome((await copyText(text)) ? "Copied" : "Not copied");
  return (
    <button type="button" class="small-button" aria-label={`Copy ${what}`} onClick={() => void copy()}>
      {outcome === "Copied" ? <CheckIcon /> : <CopyIcon />}
      <span aria-live="polite">{outcome === "" ? "Copy" : outcome}</span>
    </button>
  );
}
