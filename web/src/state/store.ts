// A value that components follow.
import { useLayoutEffect, useState } from "preact/hooks";

export class Store<T extends object> {
  #state: T;
  readonly #listeners = new Set<() => void>();

  constructor(state: T) {
    this.#state = state;
  }

  get(): T {
    return this.#state;
  }

  set(change: Partial<T>): void {
    this.#state = { ...this.#state, ...change };
    for (const listener of [...this.#listeners]) listener();
  }

  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

export function useStore<T extends object>(store: Store<T>): T {
  const [state, setState] = useState(store.get());
  useLayoutEffect(() => {
    setState(store.get()); // it may have changed since the first rendering
    return store.subscribe(() => setState(store.get()));
  }, [store]);
  return state;
}
