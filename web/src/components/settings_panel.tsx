import { countChanged, fieldError, numberFields, resetSettings, settings } from "../state/settings.ts";
import type { NumberField, Settings, Thinking } from "../state/settings.ts";
import { useStore } from "../state/store.ts";

function NumberInput({ field, numbers }: { field: NumberField; numbers: Settings["numbers"] }) {
  const text = numbers[field.name] ?? "";
  const error = fieldError(field, text);
  const id = `setting-${field.name}`;
  return (
    <div class="field">
      <div class="field-row">
        <label for={id}>{field.label}</label>
        <input
          id={id}
          type="text"
          inputMode={field.min < 0 ? "text" : field.integer ? "numeric" : "decimal"}
          autocomplete="off"
          placeholder="default"
          value={text}
          aria-invalid={error !== null}
          aria-describedby={`${id}-hint`}
          onInput={(event) => settings.set({ numbers: { ...numbers, [field.name]: event.currentTarget.value } })}
        />
      </div>
      <p id={`${id}-hint`} class={error === null ? "field-hint" : "field-hint field-error"}>
        {error ?? field.hint}
      </p>
    </div>
  );
}

const thinkingChoices: [Thinking, string][] = [
  ["default", "Default"],
  ["on", "On"],
  ["off", "Off"],
];

function ThinkingChoice({ chosen }: { chosen: Thinking }) {
  return (
    <fieldset class="field">
      <legend>Thinking</legend>
      <div class="segments">
        {thinkingChoices.map(([value, label]) => (
          <label key={value}>
            <input
              type="radio"
              name="thinking"
              value={value}
              checked={chosen === value}
              onChange={() => settings.set({ thinking: value })}
            />
            <span>{label}</span>
          </label>
        ))}
      </div>
      <p class="field-hint">Whether the model reasons before it answers, where its template knows the choice.</p>
    </fieldset>
  );
}

export function SettingsPanel() {
  const state = useStore(settings);
  return (
    <>
      <div class="field">
        <label for="setting-system">System prompt</label>
        <textarea
          id="setting-system"
          rows={3}
          placeholder="none"
          value={state.systemPrompt}
          onInput={(event) => settings.set({ systemPrompt: event.currentTarget.value })}
        />
      </div>
      <ThinkingChoice chosen={state.thinking} />
      {numberFields.map((field) => (
        <NumberInput key={field.name} field={field} numbers={state.numbers} />
      ))}
      <button type="button" class="plain-button" disabled={countChanged(state) === 0} onClick={resetSettings}>
        Reset to defaults
      </button>
      <div class="field field-apart">
        <label for="setting-key">API key</label>
        <input
          id="setting-key"
          type="password"
          autocomplete="off"
          spellcheck={false}
          placeholder="none"
          value={state.apiKey}
          aria-describedby="setting-key-hint"
          onInput={(event) => settings.set({ apiKey: event.currentTarget.value.trim() })}
        />
        <p id="setting-key-hint" class="field-hint">
          Only where the server asks for one. It is forgotten when this tab closes.
        </p>
      </div>
    </>
  );
}
