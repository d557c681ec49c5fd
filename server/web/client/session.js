// Who is signed in. The key is sent once and not kept here: from then on a cookie speaks for it that no script can read.

import { asProblem, call, Problem } from "./api.js";
import { html, useEffect, useRef, useState } from "./dom.js";
import { ProblemNote } from "./notes.js";

const NO_KEY = { title: "This is no key", detail: "There is a character in it that no key has; copy it once more." };
const NO_COOKIE = {
  title: "The browser has kept no cookie",
  detail: "Allow cookies for this page; where the operator named an https address, open the page by that one.",
};

/** Sign in; what GET /session says from then on. Throws Problem. */
export const signIn = (key) => call("/session", { method: "POST", headers: { Authorization: `Bearer ${key}` } });

/** Sign out. */
export const signOut = () => call("/session", { method: "DELETE" });

/** The form that asks for a key. */
export function SignIn({ onSession }) {
  const [key, setKey] = useState("");
  const [problem, setProblem] = useState(null);
  const field = useRef(null);
  useEffect(() => field.current.focus(), []);
  const send = async (event) => {
    event.preventDefault();
    setProblem(null);
    try {
      if (!/^[\x21-\x7e]+$/.test(key.trim())) throw new Problem(NO_KEY);
      const session = await signIn(key.trim());
      await call("/session").catch((error) => {
        throw error.status === 401 ? new Problem(NO_COOKIE) : error;
      });
      onSession(session);
    } catch (error) {
      setProblem(asProblem(error));
      field.current.select();
    }
  };
  return html`
    <form class="sign-in" onSubmit=${send}>
      <h1>Sign in</h1>
      <p>This server asks for a key. The operator makes one with <code>r3 keys create NAME</code>.</p>
      <div class="field"><label for="key">Key</label>
        <input id="key" ref=${field} type="password" value=${key} onInput=${(e) => setKey(e.target.value)} autocomplete="current-password"
          spellcheck="false" placeholder="r3_…" required /></div>
      ${problem && html`<${ProblemNote} problem=${problem} />`}
      <div><button type="submit" class="primary">Sign in</button></div>
      <p class="hint">The key is sent once. The browser keeps a cookie in its place, for a week or until you sign out.</p>
    </form>`;
}
