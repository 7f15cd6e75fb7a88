import { useEffect, useRef, useState } from "preact/hooks";

export interface Polled<T> {
  data?: T;
  error?: Error;
}

/**
 * Asks again and again, `every` ms after each answer, while the page is
 * visible, and at once when something in `deps` changes. What was last answered
 * stays until there is another answer, also when a question fails.
 */
export function usePoll<T>(ask: (signal: AbortSignal) => Promise<T>, every: number, deps: unknown[]): Polled<T> {
  const [state, set] = useState<Polled<T>>({});
  const latest = useRef(ask);
  latest.current = ask;
  useEffect(() => {
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let asking = false;
    async function turn() {
      if (asking || document.hidden) return;
      asking = true;
      clearTimeout(timer);
      try {
        const data = await latest.current(abort.signal);
        if (!abort.signal.aborted) set({ data });
      } catch (error) {
        if (!abort.signal.aborted) set((old) => ({ data: old.data, error: error as Error }));
      }
      asking = false;
      if (!abort.signal.aborted) timer = setTimeout(turn, every);
    }
    const onVisible = () => void turn();
    document.addEventListener("visibilitychange", onVisible);
    void turn();
    return () => {
      abort.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", onVisible);
    };
  }, deps);
  return state;
}
