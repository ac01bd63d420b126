import { useState } from "preact/hooks";
import { ApiError, switchStrategy } from "../api/client.ts";
import { settings } from "../state/settings.ts";
import { formatSeconds } from "../text/format.ts";

interface Outcome {
  busy: boolean;
  done: string; // in words, as is the error
  error: string;
}

const kNothing: Outcome = { busy: false, done: "", error: "" };

// For administrators: another strategy, while requests run.
export function StrategyForm() {
  const [strategy, setStrategy] = useState("");
  const [key, setKey] = useState("");
  const [outcome, setOutcome] = useState(kNothing);

  const submit = async (): Promise<void> => {
    if (outcome.busy || strategy.trim() === "") return;
    setOutcome({ ...kNothing, busy: true });
    try {
      const change = await switchStrategy(strategy.trim(), key || settings.get().apiKey);
      const pause = change.pauseSeconds === null ? "" : `, after a pause of ${formatSeconds(change.pauseSeconds)}`;
      setOutcome({ ...kNothing, done: `The strategy is ${change.strategy}${pause}.` });
    } catch (error) {
      setOutcome({ ...kNothing, error: error instanceof ApiError ? error.message : String(error) });
    }
  };

  return (
    <details class="strategy-form">
      <summary>Change the strategy</summary>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void submit();
        }}
      >
        <div class="field">
          <label for="strategy-sizes">Strategy</label>
          <input
            id="strategy-sizes"
            type="text"
            autocomplete="off"
            spellcheck={false}
            placeholder="tp=2,dp=2,ep=4"
            value={strategy}
            onInput={(event) => setStrategy(event.currentTarget.value)}
          />
        </div>
        <div class="field">
          <label for="strategy-key">Administrator's key</label>
          <input
            id="strategy-key"
            type="password"
            autocomplete="off"
            spellcheck={false}
            placeholder="none"
            value={key}
            aria-describedby="strategy-key-hint"
            onInput={(event) => setKey(event.currentTarget.value.trim())}
          />
          <p id="strategy-key-hint" class="field-hint">
            Only where the server asks for one; without it the key of the settings is sent.
          </p>
        </div>
        <button type="submit" class="plain-button" disabled={outcome.busy || strategy.trim() === ""}>
          {outcome.busy ? "Changing…" : "Change"}
        </button>
        {outcome.error !== "" && (
          <p class="field-hint field-error" role="alert">
            {outcome.error}
          </p>
        )}
        {outcome.done !== "" && (
          <p class="field-hint" role="status">
            {outcome.done}
          </p>
        )}
      </form>
    </details>
  );
}
