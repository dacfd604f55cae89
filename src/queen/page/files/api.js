// Requests to queen, with the token where one is asked for.

import { $, show } from "./dom.js";

const TOKEN = "rbee.token";
let token = sessionStorage.getItem(TOKEN) ?? "";
let asking = null;

/** An answer that is none of what was asked for. */
export class Refused extends Error {
  /** `status` 0: nobody answered. `wait`: seconds after which to ask again. */
  constructor(status, message, wait = 0) {
    super(message);
    Object.assign(this, { status, wait });
  }

  /** Whether the same request may be taken later. */
  get passes() {
    return this.status === 0 || this.status === 429 || this.status >= 502;
  }
}

/** An answer of 200 or 202. Asks for a token where there is none, or a wrong one. */
export async function ask(path, options = {}) {
  for (;;) {
    const used = token;
    const headers = { ...options.headers };
    if (used) headers.Authorization = `Bearer ${used}`;
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused(0, "queen does not answer");
    }
    if (response.ok) return response;
    if (response.status !== 401) throw await refused(response);
    if (used === token) await askForToken(used !== "");
  }
}

async function refused(response) {
  const wait = Number(response.headers.get("Retry-After")) || 0;
  const body = await response.json().catch(() => null);
  return new Refused(response.status, body?.error?.message ?? `queen answered ${response.status}`, wait);
}

/** Whoever asks meanwhile waits for the same answer. */
function askForToken(wrong) {
  asking ??= new Promise((resolve) => {
    const dialog = $("token");
    const value = $("token-value");
    show($("token-error"), wrong ? "Queen does not know this token." : "");
    value.value = "";
    $("token-form").onsubmit = () => {
      token = value.value.trim();
      sessionStorage.setItem(TOKEN, token);
      asking = null;
      resolve();
    };
    // Nothing can be done without it.
    dialog.oncancel = (event) => event.preventDefault();
    if (!dialog.open) dialog.showModal();
    value.focus();
  });
  return asking;
}
