// Text kept in the browser. Where storage is forbidden, nothing is kept and nothing fails.

export function load(storage: "local" | "session", name: string): string {
  try {
    return pick(storage).getItem(`chorale.${name}`) ?? "";
  } catch {
    return "";
  }
}

export function save(storage: "local" | "session", name: string, text: string): void {
  try {
    if (text === "") pick(storage).removeItem(`chorale.${name}`);
    else pick(storage).setItem(`chorale.${name}`, text);
  } catch {
    // It lasts as long as the page.
  }
}

function pick(storage: "local" | "session"): Storage {
  return storage === "local" ? window.localStorage : window.sessionStorage;
}
