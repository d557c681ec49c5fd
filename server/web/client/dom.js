// What every part of the page is written with: html`…` and hooks of htm/preact, and a few hooks and pieces of our own.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./htm-preact.js";

export {
  html, render, useCallback, useEffect, useErrorBoundary, useLayoutEffect, useMemo, useReducer, useRef, useState,
} from "./htm-preact.js";

const ICONS = {
  play: "M7 5v14l12-7z",
  stop: "M6 6h12v12H6z",
  close: "M6 6l12 12M18 6L6 18",
  check: "M5 12.5l4.5 4.5L19 7.5",
  pencil: "M4 20l1-4L16 5l3 3L8 19z",
  question: "M9 9a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4M12 18v.01",
  again: "M20 12a8 8 0 1 1-2.5-5.8M20 4v4h-4",
  branch: "M6 4v16M6 12c8 0 11-2 11-7M14 7l3-3 3 3",
  image: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4",
  download: "M12 4v11M7 11l5 5 5-5M5 20h14",
  lock: "M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 0 1 7 0v3",
  unlock: "M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 0 1 6.6-1.6",
  history: "M4 12a8 8 0 1 0 2.5-5.8M4 4v4h4M12 8v4l3 2",
  share: "M9 12l6-4M9 12l6 4M9 12a2.5 2.5 0 1 1-5 0 2.5 2.5 0 0 1 5 0M20 7a2.5 2.5 0 1 1-5 0 2.5 2.5 0 0 1 5 0M20 17a2.5 2.5 0 1 1-5 0 2.5 2.5 0 0 1 5 0",
  compare: "M12 3v18M4 6h5v12H4M20 6h-5v12h5",
  code: "M8 7l-5 5 5 5M16 7l5 5-5 5",
  settings: "M4 7h9M19 7h1M4 17h1M11 17h9M13 7a3 3 0 1 0 6 0 3 3 0 0 0-6 0M5 17a3 3 0 1 0 6 0 3 3 0 0 0-6 0",
  out: "M14 5H5v14h9M10 12h10M16 8l4 4-4 4",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  plus: "M12 5v14M5 12h14",
  up: "M12 19V5M6 11l6-6 6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  back: "M9 5L4 10l5 5M4 10h10a6 6 0 0 1 0 12h-2",
  star: "M12 4l2.4 5 5.6.7-4.1 3.8 1.1 5.5L12 16.3 7 19l1.1-5.5L4 9.7 9.6 9z",
  eye: "M2.5 12C5 7.5 8.3 5.5 12 5.5S19 7.5 21.5 12C19 16.5 15.7 18.5 12 18.5S5 16.5 2.5 12M12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6",
};

/** A line drawing beside words that say the same, so nothing reads it aloud. */
export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false"><path d=${ICONS[name]} /></svg>`;
}

/** The width of an element in CSS pixels, which `ref` is given to; `first` until it is measured. */
export function useWidth(first) {
  const ref = useRef(null);
  const [width, setWidth] = useState(first);
  useLayoutEffect(() => {
    const element = ref.current;
    if (!element) return undefined;
    const measure = () => setWidth(element.clientWidth);
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  return [ref, width];
}

/** Whether the browser thinks that it is on a network. */
export function useOnline() {
  const [isOnline, setOnline] = useState(navigator.onLine);
  useEffect(() => {
    const look = () => setOnline(navigator.onLine);
    addEventListener("online", look);
    addEventListener("offline", look);
    return () => {
      removeEventListener("online", look);
      removeEventListener("offline", look);
    };
  }, []);
  return isOnline;
}

/** A dialog that is open for as long as it is there: Escape, its cross and a click beside it call `onClose`. */
export function Dialog({ title, name = "", onClose, children }) {
  const ref = useRef(null);
  const pressed = useRef(null); // a text that is selected from inside to beside it ends in a click, too
  useEffect(() => {
    const dialog = ref.current;
    const before = document.activeElement;
    dialog.showModal();
    return () => {
      dialog.close();
      before?.focus?.();
    };
  }, []);
  return html`
    <dialog class="dialog ${name}" ref=${ref} aria-labelledby="dialog-title"
      onCancel=${(event) => { event.preventDefault(); onClose(); }}
      onPointerDown=${(event) => { pressed.current = event.target; }}
      onClick=${(event) => event.target === ref.current && pressed.current === ref.current && onClose()}>
      <div class="dialog-body">
        <div class="dialog-head">
          <h2 id="dialog-title">${title}</h2>
          <button type="button" class="quiet square" onClick=${onClose} aria-label="Close"><${Icon} name="close" /></button>
        </div>
        ${children}
      </div>
    </dialog>`;
}

/** A button that copies a text, and says that it did. */
export function CopyButton({ text, label = "Copy" }) {
  const [said, setSaid] = useState("");
  const copy = async () => {
    setSaid((await copied(text)) ? "Copied" : "Select the text and copy it");
    setTimeout(() => setSaid(""), 2500);
  };
  return html`<button type="button" onClick=${copy}><span aria-live="polite">${said || label}</span></button>`;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text); // there only where the page came by https or from this machine
    return true;
  } catch {
    return false;
  }
}

/** Random bits as hex: crypto.randomUUID is there only where the page came by https or from this machine. */
export function randomHex(bytes) {
  return Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (b) => b.toString(16).padStart(2, "0")).join("");
}
